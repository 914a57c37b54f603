"""`atoll start`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import DETACH_KEYS
from atoll.cli.errors import Failure, describe
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client import Client


@verb(
    "start",
    "CONTAINER [CONTAINER...]",
    help="Start one or more stopped containers",
    at_least=1,
    aliases=("atoll container start", "atoll start"),
)
@switch("-a", "--attach", "attached", help="Attach STDOUT/STDERR and forward signals")
@DETACH_KEYS
@switch("-i", "--interactive", help="Attach container's STDIN")
def start(
    session: Session, attached: bool, detach_keys: str | None, interactive: bool, arguments: Sequence[str]
) -> int:
    """Start containers; attached to one, its exit code is ours."""
    from atoll.client import containers

    if attached or interactive:
        if len(arguments) > 1:
            raise Failure("you cannot start and attach multiple containers at once")
        return _start_attached(session, arguments[0], detach_keys, stdin=interactive)

    def act(client: "Client", name: str) -> None:
        containers.start(client, name, detach_keys=detach_keys)

    each(session, arguments, act, last_word="Error: failed to start containers: ")
    return 0


def _start_attached(session: Session, name: str, detach_keys: str | None, *, stdin: bool) -> int:
    from atoll.cli.commands.attach import converse
    from atoll.cli.terminal import is_terminal
    from atoll.client import containers

    client = session.client
    found = containers.get(client, name)
    container, settings = found["Id"], found["Config"]
    tty = bool(settings.get("Tty"))
    streams = {"stdout", "stderr"}
    if stdin and settings.get("OpenStdin"):
        streams.add("stdin")
        if tty and not is_terminal(0):
            raise Failure("the input device is not a TTY")
    removed = found.get("HostConfig", {}).get("AutoRemove")
    try:
        code = converse(
            session,
            container,
            tty=tty,
            streams=streams,
            detach_keys=detach_keys,
            sig_proxy=not tty,
            until="removed" if removed else "next-exit",
            start=lambda: containers.start(client, container, detach_keys=detach_keys),
        )
        return code or 0
    except AtollError as error:
        raise Failure(describe(error)) from error
