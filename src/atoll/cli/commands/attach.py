"""`atoll attach`, and the conversation with a container's first process that `run` and `start` have as well."""

from collections.abc import Callable, Sequence, Set
from signal import Signals
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import DETACH_KEYS
from atoll.cli.errors import ENGINE_ERROR, Failure
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import WaitResult

DETACHED = "read escape sequence"
"""Docker's words for detaching from what was not ours to begin with."""


@verb(
    "attach",
    "CONTAINER",
    help="Attach local standard input, output, and error streams to a running container",
    at_least=1,
    at_most=1,
    aliases=("atoll container attach", "atoll attach"),
)
@DETACH_KEYS
@switch("--no-stdin", help="Do not attach STDIN")
@switch("--sig-proxy", default=True, help="Proxy all received signals to the process")
def attach(session: Session, detach_keys: str | None, no_stdin: bool, sig_proxy: bool, arguments: Sequence[str]) -> int:
    """Attach to a running container; the exit code is its own."""
    from atoll.cli.terminal import is_terminal
    from atoll.client import containers

    (container,) = arguments
    found = containers.get(session.client, container)
    state, settings = found["State"], found["Config"]
    if not state.get("Running"):
        raise Failure("cannot attach to a stopped container, start it first")
    if state.get("Paused"):
        raise Failure("cannot attach to a paused container, unpause it first")
    if state.get("Restarting"):
        raise Failure("cannot attach to a restarting container, wait until it is running")
    tty = bool(settings.get("Tty"))
    streams = {"stdout", "stderr"}
    if settings.get("OpenStdin") and not no_stdin:
        streams.add("stdin")
        if tty and not is_terminal(0):
            raise Failure("the input device is not a TTY")
    code = converse(
        session, container, tty=tty, streams=streams, detach_keys=detach_keys, sig_proxy=sig_proxy, until="not-running"
    )
    if code is None:
        raise Failure(DETACHED)
    return code


def converse(
    session: Session,
    container: str,
    *,
    tty: bool,
    streams: Set[str],
    detach_keys: str | None,
    sig_proxy: bool,
    until: str,
    start: Callable[[], None] | None = None,
) -> int | None:
    """Attach, call `start`, pass everything on until the container ends, and return its exit code.

    None when the user detached. Without `start` it runs, and is made to draw its screen anew. `until` is what to wait
    for, in the API's words.
    """
    from atoll.cli.terminal import conversation
    from atoll.client import containers

    client = session.client
    stdin, stdout, stderr = (name in streams for name in ("stdin", "stdout", "stderr"))
    stream = containers.attach(client, container, stdin=stdin, stdout=stdout, stderr=stderr, detach_keys=detach_keys)
    with conversation(
        stream,
        tty=tty,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        detach_keys=detach_keys,
        resize=lambda rows, columns: containers.resize(client, container, rows, columns),
        redraw=start is None,
        forward=(lambda number: containers.kill(client, container, signal=_signal(number))) if sig_proxy else None,
    ) as talk:
        finish = containers.begin_wait(client, container, until)
        if start is not None:
            start()
        if not (stdout or stderr):
            session.print(container)
        if not talk.hold():
            return None
    if not (stdout or stderr):
        return 0
    return exit_code(finish())


def exit_code(result: "WaitResult") -> int:
    """The container's exit code; raises `Failure` when the engine could not learn it."""
    error = result.get("Error")
    if error and error.get("Message"):
        raise Failure(error["Message"], result.get("StatusCode") or ENGINE_ERROR)
    return result["StatusCode"]


def _signal(number: int) -> str:
    """By name where it has one: the guest's numbers need not be ours."""
    try:
        return Signals(number).name
    except ValueError:
        return str(number)
