"""`atoll inspect`, and `inspect` of `atoll container`, `image`, `network`, `volume` and `system template`: all about
objects, as JSON or by template.
"""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from atoll.cli.errors import Failure, describe
from atoll.cli.flags import Kind, flag, switch
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client.shapes import Object

    Find = Callable[[str], "Object"]

TYPES = ("container", "image", "network", "volume")
NOT_FOUND_STATUS = 404


def _parse_type(text: str) -> str:
    if text not in TYPES:
        raise ValueError(f"unknown type: {text}: must be one of {', '.join(TYPES)}")
    return text


FORMAT = flag("-f", "--format", help="Format output using a custom template: 'json' or 'TEMPLATE' (Go template)")
SIZE = switch("-s", "--size", help="Display total file sizes if the type is container")


@verb("inspect", "NAME|ID [NAME|ID...]", help="Return low-level information on Atoll objects", at_least=1)
@FORMAT
@SIZE
@flag("--type", "kind", kind=Kind("string", _parse_type), help="Only inspect objects of the given type")
def inspect(session: Session, format: str | None, size: bool, kind: str | None, arguments: Sequence[str]) -> None:
    """Inspect containers, images, networks and volumes."""
    finders = {
        "container": _containers(session, size=size),
        "image": _images(session),
        "network": _networks(session),
        "volume": _volumes(session),
    }
    chosen = [finders[kind]] if kind else list(finders.values())

    def find(name: str) -> "Object":
        from atoll.client import EngineError

        for finder in chosen:
            try:
                return finder(name)
            except EngineError as error:
                if error.status != NOT_FOUND_STATUS:
                    raise
        raise Failure(f"error: no such {kind or 'object'}: {name}")

    _inspect(session, arguments, format, find)


@verb(
    "inspect",
    "CONTAINER [CONTAINER...]",
    help="Display detailed information on one or more containers",
    at_least=1,
)
@FORMAT
@SIZE
def container_inspect(session: Session, format: str | None, size: bool, arguments: Sequence[str]) -> None:
    """Inspect containers."""
    _inspect(session, arguments, format, _containers(session, size=size))


@verb("inspect", "IMAGE [IMAGE...]", help="Display detailed information on one or more images", at_least=1)
@FORMAT
def image_inspect(session: Session, format: str | None, arguments: Sequence[str]) -> None:
    """Inspect images."""
    _inspect(session, arguments, format, _images(session))


@verb("inspect", "NETWORK [NETWORK...]", help="Display detailed information on one or more networks", at_least=1)
@FORMAT
def network_inspect(session: Session, format: str | None, arguments: Sequence[str]) -> None:
    """Inspect networks."""
    _inspect(session, arguments, format, _networks(session))


@verb("inspect", "TEMPLATE [TEMPLATE...]", help="Display detailed information on one or more templates", at_least=1)
@FORMAT
def template_inspect(session: Session, format: str | None, arguments: Sequence[str]) -> None:
    """Inspect templates of virtual machines."""
    from atoll.client import templates

    _inspect(session, arguments, format, lambda name: templates.inspect(session.client, name))


@verb("inspect", "VOLUME [VOLUME...]", help="Display detailed information on one or more volumes", at_least=1)
@FORMAT
def volume_inspect(session: Session, format: str | None, arguments: Sequence[str]) -> None:
    """Inspect volumes."""
    _inspect(session, arguments, format, _volumes(session))


def _volumes(session: Session) -> "Find":
    from atoll.client import volumes

    return lambda name: volumes.inspect(session.client, name)


def _networks(session: Session) -> "Find":
    from atoll.client import networks

    return lambda name: networks.inspect(session.client, name)


def _containers(session: Session, *, size: bool) -> "Find":
    from atoll.client import containers

    return lambda name: containers.inspect(session.client, name, size=size)


def _images(session: Session) -> "Find":
    from atoll.client import images

    return lambda name: images.inspect(session.client, name)


def _inspect(session: Session, names: Sequence[str], format: str | None, find: "Find") -> None:
    """Print what is found, then fail with what is not, as Docker does."""
    show = _shower(format)
    found: list[Object] = []
    errors: list[str] = []
    for name in names:
        try:
            found.append(find(name))
        except AtollError as error:
            errors.append(describe(error))
        except Failure as failure:
            errors.append(str(failure))
    text = show(found)
    if text:
        session.print(text)
    if errors:
        raise Failure("\n".join(errors))


def _shower(format: str | None) -> "Callable[[Sequence[Object]], str]":
    """What makes text of the objects; a wrong template is found before the engine is asked."""
    if format is None:
        return lambda found: json.dumps(found, indent=4, ensure_ascii=False)
    if format == "json":
        return lambda found: json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    from atoll.cli.template import Template

    template = Template(format)
    return lambda found: "\n".join(template.render(value) for value in found)
