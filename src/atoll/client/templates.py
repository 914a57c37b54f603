"""The endpoints of templates, under `/atoll/templates`: a template is named by its id, or how that begins."""

from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client

if TYPE_CHECKING:
    from atoll.client.shapes import Object, Template

_TEMPLATES = "/atoll/templates"


def list_templates(client: Client) -> "list[Template]":
    """The templates that are here."""
    return cast("list[Template]", client.get(_TEMPLATES))


def build(client: Client, *, cpus: int | None, memory_bytes: int | None, force: bool) -> "Template":
    """The template of such a machine, built when it is not here or with `force`; this may take a minute."""
    body: Object = {"Cpus": cpus, "Memory": memory_bytes, "Force": force}
    return cast("Template", client.post(_TEMPLATES, body=body))


def inspect(client: Client, template: str) -> "Object":
    """All about a template."""
    return cast("Object", client.get(_path(template)))


def remove(client: Client, template: str) -> None:
    """Remove; what was started from it runs on."""
    client.delete(_path(template))


def _path(template: str) -> str:
    return f"{_TEMPLATES}/{quote(template, safe='')}"
