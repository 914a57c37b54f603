"""`atoll version`: of the client, and of the engine with its parts."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll import __version__
from atoll.cli.commands.inspect import FORMAT
from atoll.cli.errors import describe
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Object

API_VERSION = "1.47"
WIDTH = 18


@verb("version", help="Show the Atoll version information", at_most=0)
@FORMAT
def version(session: Session, format: str | None, arguments: Sequence[str]) -> int:
    """Print versions; exit code 1 when the engine does not answer."""
    client = _client()
    server: Object | None = None
    failure = ""
    try:
        from atoll.client import system

        server = system.version(session.client)
    except AtollError as error:
        failure = describe(error)
    if format is not None:
        from atoll.cli.commands.info import render

        session.print(render({"Client": client, "Server": server}, format))
    else:
        session.print(_page(client, server))
    if failure:
        session.warn(failure)
    return 1 if failure else 0


def _client() -> "Object":
    machine = {"x86_64": "amd64", "aarch64": "arm64"}
    import os

    architecture = os.uname().machine
    return {
        "Version": __version__,
        "ApiVersion": API_VERSION,
        "PythonVersion": sys.version.split()[0],
        "Os": "linux",
        "Arch": machine.get(architecture, architecture),
    }


def _page(client: "Object", server: "Object | None") -> str:
    lines = [
        "Client:",
        _line("Version", client["Version"]),
        _line("API version", client["ApiVersion"]),
        _line("Python version", client["PythonVersion"]),
        _line("OS/Arch", f"{client['Os']}/{client['Arch']}"),
    ]
    if server is not None:
        lines += ["", "Server:", " Engine:"]
        minimum = f"{server.get('ApiVersion')} (minimum version {server.get('MinAPIVersion')})"
        lines += [
            _line("Version", server.get("Version"), 2),
            _line("API version", minimum, 2),
            _line("OS/Arch", f"{server.get('Os')}/{server.get('Arch')}", 2),
        ]
        components = server.get("Components")
        for component in components if isinstance(components, list) else []:
            if isinstance(component, dict) and component.get("Name") != "Engine":
                lines += [f" {component.get('Name')}:", _line("Version", component.get("Version"), 2)]
    return "\n".join(lines)


def _line(name: str, value: "Json", indent: int = 1) -> str:
    return f"{' ' * indent}{name + ':':<{WIDTH}} {value}"
