"""`atoll run`: create, attach, start, talk, and end with the container's exit code."""

from collections.abc import Sequence

from atoll.cli.commands.container_flags import DETACH_KEYS, ContainerFlags, container_flags
from atoll.cli.commands.create import IMAGE_USAGE, create_container
from atoll.cli.errors import ENGINE_ERROR, Failure, describe, start_exit_code
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import AtollError


@verb(
    "run",
    IMAGE_USAGE,
    help="Create and run a new container from an image",
    at_least=1,
    interspersed=False,
    aliases=("atoll container run", "atoll run"),
)
@switch("-d", "--detach", help="Run container in background and print container ID")
@DETACH_KEYS
@switch("--sig-proxy", default=True, help="Proxy received signals to the process")
@container_flags
def run(
    session: Session,
    detach: bool,
    detach_keys: str | None,
    sig_proxy: bool,
    arguments: Sequence[str],
    **values: object,
) -> int:
    """Run a container; the exit code is its own, or says why it did not run."""
    from atoll.cli.commands.container_request import attached_streams, container_request
    from atoll.cli.terminal import is_terminal

    flags = ContainerFlags(values)
    image, *command = arguments
    if detach and flags.attach:
        raise Failure("conflicting options: cannot specify both --attach and --detach")
    streams = attached_streams(flags, detached=detach)
    if flags.tty and "stdin" in streams and not is_terminal(0):
        raise Failure("the input device is not a TTY")
    try:
        container = create_container(session, flags, image, container_request(flags, image, command, detached=detach))
        if not streams:
            return _start_detached(session, container, detach_keys)
        return _converse(session, container, flags, streams, detach_keys=detach_keys, sig_proxy=sig_proxy)
    except Failure as failure:
        if failure.code == ENGINE_ERROR:
            failure.see_help = "atoll run"
        raise
    except AtollError as error:
        raise Failure(describe(error), start_exit_code(error), see_help="atoll run") from error


def _start_detached(session: Session, container: str, detach_keys: str | None) -> int:
    from atoll.client import containers

    containers.start(session.client, container, detach_keys=detach_keys)
    session.print(container)
    return 0


def _converse(
    session: Session,
    container: str,
    flags: ContainerFlags,
    streams: set[str],
    *,
    detach_keys: str | None,
    sig_proxy: bool,
) -> int:
    """Attach before the start, so that no byte is missed; register the wait before it, so that no end is."""
    from atoll.cli.commands.attach import converse
    from atoll.client import containers

    code = converse(
        session,
        container,
        tty=flags.tty,
        streams=streams,
        detach_keys=detach_keys,
        sig_proxy=sig_proxy,
        until="removed" if flags.rm else "next-exit",
        start=lambda: containers.start(session.client, container, detach_keys=detach_keys),
    )
    return code or 0
