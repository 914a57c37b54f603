"""`atoll info`: Docker's info object and ours in one; `--format '{{.Socket}}'` is where the engine listens."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.inspect import FORMAT
from atoll.cli.session import Session
from atoll.cli.values.sizes import human_binary_size
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Object

NOT_FOUND_STATUS = 404

LINES = (
    ("Containers", "Containers"),
    (" Running", "ContainersRunning"),
    (" Paused", "ContainersPaused"),
    (" Stopped", "ContainersStopped"),
    ("Images", "Images"),
    ("Server Version", "ServerVersion"),
    ("Storage Driver", "Driver"),
    ("Logging Driver", "LoggingDriver"),
    ("Kernel Version", "KernelVersion"),
    ("Operating System", "OperatingSystem"),
    ("OSType", "OSType"),
    ("Architecture", "Architecture"),
    ("CPUs", "NCPU"),
    ("Total Memory", "MemTotal"),
    ("Name", "Name"),
    ("Root Dir", "DockerRootDir"),
    ("Socket", "Socket"),
    ("Log", "Log"),
    ("Settings File", "SettingsFile"),
    ("Engine Pid", "Pid"),
)
"""What is shown without `--format`, with the field that has it."""


@verb(
    "info",
    help="Display system-wide information",
    at_most=0,
    aliases=("atoll system info", "atoll info"),
)
@FORMAT
def info(session: Session, format: str | None, arguments: Sequence[str]) -> None:
    """Print what the engine says about itself and its host."""
    from atoll.client import EngineError, system

    found = system.info(session.client)
    try:
        ours = system.atoll_info(session.client)
    except EngineError as error:
        # Another engine that speaks Docker's API.
        if error.status != NOT_FOUND_STATUS:
            raise
        ours = {"Socket": str(session.socket)}
    everything: Object = {**ours, **found}
    session.print(_page(everything) if format is None else render(everything, format))
    warnings = everything.get("Warnings")
    if format is None and isinstance(warnings, list):
        for warning in warnings:
            session.warn(f"WARNING: {warning}")


def render(value: "Object", format: str) -> str:
    """One object as `--format` wants it."""
    if format == "json":
        import json

        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    from atoll.cli.template import Template

    return Template(format).render(value)


def _page(found: "Object") -> str:
    lines = [f" {title}: {_shown(name, found[name])}" for title, name in LINES if name in found]
    drivers = found.get("DriverStatus")
    for pair in drivers if isinstance(drivers, list) else []:
        if isinstance(pair, list) and len(pair) == 2:
            lines.append(f" {pair[0]}: {pair[1]}")
    return "\n".join(["Server:", *lines])


def _shown(name: str, value: "Json") -> str:
    return human_binary_size(value) if name == "MemTotal" and isinstance(value, int) else str(value)
