"""Templates of `--format`: the part of Go's text/template that people use with Docker."""

from atoll.cli.template.errors import TemplateError
from atoll.cli.template.template import Template

__all__ = ["Template", "TemplateError"]
