"""Templates: guests that have come up once, for clones to go on from."""

from atoll.template.build import build_template
from atoll.template.key import qemu_identity, template_key
from atoll.template.machine import machine_spec, template_spec
from atoll.template.rehearsal import PROGRAM, Exits, Stage, rehearse
from atoll.template.store import StoredTemplate, TemplateStore
from atoll.template.template import MEMORY_MIB, Template, TemplateKey, TemplateRecord, growth_mib

__all__ = [
    "MEMORY_MIB",
    "PROGRAM",
    "Exits",
    "Stage",
    "StoredTemplate",
    "Template",
    "TemplateKey",
    "TemplateRecord",
    "TemplateStore",
    "build_template",
    "growth_mib",
    "machine_spec",
    "qemu_identity",
    "rehearse",
    "template_key",
    "template_spec",
]
