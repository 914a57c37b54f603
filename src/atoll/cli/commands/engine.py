"""`atoll system start|stop|status|logs`: the engine itself."""

import os
from collections.abc import Sequence
from select import POLLIN, poll
from typing import TYPE_CHECKING

from atoll.cli.commands.inspect import FORMAT
from atoll.cli.errors import Failure
from atoll.cli.flags import INTEGER, Kind, flag, switch
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import Unavailable

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Object

STOP_DEADLINE_S = 60
ACCELERATORS = ("auto", "kvm", "tcg")


def _parse_accelerator(text: str) -> str:
    if text not in ACCELERATORS:
        raise ValueError(f"must be one of {', '.join(ACCELERATORS)}")
    return text


@verb("start", help="Start the engine", at_most=0)
@flag(
    "--accel",
    kind=Kind("string", _parse_accelerator),
    help="How guest code runs: kvm, tcg, or auto, which tries kvm (the settings say otherwise)",
)
def start(session: Session, accel: str | None, arguments: Sequence[str]) -> None:
    """Start the engine; nothing is to be done when it runs, unless it is to use another accelerator."""
    options = ("--accel", accel) if accel else ()
    if session.launch(*options):
        session.print(f"engine started: unix://{session.socket}")
    elif accel:
        raise Failure(f"the engine runs already: 'atoll system stop', then start it with --accel {accel}")
    else:
        session.print(f"engine runs: unix://{session.socket}")


@verb("stop", help="Stop the engine; containers run on", at_most=0)
@switch("--containers", help="Stop all containers first")
@flag("-t", "--timeout", "--time", kind=INTEGER, help="Seconds to wait before killing a container")
def stop(session: Session, containers: bool, timeout: int | None, arguments: Sequence[str]) -> None:
    """Stop the engine and wait until it is gone; nothing is to be done when it does not run."""
    from atoll.client import system

    client = session.connect(launch=False)
    if not client.is_served():
        session.print("engine does not run")
        return
    pid = client.engine_pid()
    # Held before it is asked to end, so that it cannot be mistaken for another process later.
    engine = os.pidfd_open(pid)
    try:
        system.stop(client, containers=containers, timeout_s=timeout)
        client.close()
        ended = poll()
        ended.register(engine, POLLIN)
        if not ended.poll(STOP_DEADLINE_S * 1000):
            raise Failure(f"the engine (pid {pid}) did not end within {STOP_DEADLINE_S} s: see 'atoll system logs'")
    finally:
        os.close(engine)
    session.print("engine stopped")


@verb("status", help="Show how the engine stands: kernel, accelerator, containers", at_most=0)
@FORMAT
def status(session: Session, format: str | None, arguments: Sequence[str]) -> int:
    """Print the status; exit code 1 when the engine does not run, which this does not change."""
    from atoll.client import system

    client = session.connect(launch=False)
    try:
        found = system.status(client)
    except Unavailable:
        if format is not None:
            raise
        session.print(f"engine:       not running (socket {session.socket})")
        return 1
    if format is not None:
        from atoll.cli.commands.info import render

        session.print(render(found, format))
        return 0
    session.print(_page(found))
    warnings = found.get("Warnings")
    for warning in warnings if isinstance(warnings, list) else []:
        session.warn(f"WARNING: {warning}")
    return 0


@verb("logs", help="Show the engine's log", at_most=0)
@switch("-f", "--follow", help="Follow log output")
@flag("-n", "--tail", kind=INTEGER, default=-1, help="Number of lines to show from the end, all when negative")
def logs(session: Session, follow: bool, tail: int, arguments: Sequence[str]) -> None:
    """Print the engine's own log; the engine need not run."""
    from atoll.paths import paths

    log = paths().engine_log
    if not log.exists():
        raise Failure(f"there is no log at {log}: the engine was never started")
    lines = f"{tail}" if tail >= 0 else "+1"
    session.flush()
    os.execvp("tail", ["tail", "-n", lines, *(["-F"] if follow else []), "--", os.fspath(log)])


def _page(found: "Object") -> str:
    kernel, accelerator, containers = (_object(found.get(name)) for name in ("Kernel", "Accelerator", "Containers"))
    lines = [
        ("engine", f"running, version {found.get('Version')}, pid {found.get('Pid')}, since {found.get('StartedAt')}"),
        ("socket", found.get("Socket")),
        ("root", found.get("Root")),
        ("settings", found.get("SettingsFile")),
        ("log", found.get("Log")),
        ("kernel", kernel.get("Version") or f"none: {kernel.get('Reason')}"),
        ("accelerator", f"{accelerator.get('Name') or 'none yet'} ({accelerator.get('Reason')})"),
        ("qemu", f"{found.get('Qemu')} {found.get('QemuVersion')}"),
        ("containers", f"{containers.get('Running')} running of {containers.get('Total')}"),
        ("images", found.get("Images")),
    ]
    templates, pool = _object(found.get("Templates")), _object(found.get("Pool"))
    if templates:
        lines.append(("templates", f"{templates.get('Total')} ({templates.get('Current')} current)"))
    if pool:
        lines.append(("pool", f"{pool.get('Ready')} of {pool.get('Size')} ready"))
    return "\n".join(f"{name + ':':<13} {value}" for name, value in lines)


def _object(value: "Json") -> "Object":
    return value if isinstance(value, dict) else {}
