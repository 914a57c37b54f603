"""`atoll run`: create, attach, start, talk, and end with the container's exit code."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import DETACH_KEYS, ContainerFlags, container_flags
from atoll.cli.commands.create import IMAGE_USAGE, create_container
from atoll.cli.errors import ENGINE_ERROR, Failure, describe, start_exit_code
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb
from atoll.errors import AtollError

if TYPE_CHECKING:
    from collections.abc import Callable


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
@switch("--timings", help="Print where the time of the start went, on standard error")
@container_flags
def run(
    session: Session,
    detach: bool,
    detach_keys: str | None,
    sig_proxy: bool,
    timings: bool,
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
        start = _Start(session, container, detach_keys, timed=timings)
        if streams:
            code = _converse(session, container, flags, streams, start, detach_keys=detach_keys, sig_proxy=sig_proxy)
        else:
            start()
            session.print(container)
            code = 0
        if timings:
            session.warn(start.timings)
        return code
    except Failure as failure:
        if failure.code == ENGINE_ERROR:
            failure.see_help = "atoll run"
        raise
    except AtollError as error:
        raise Failure(describe(error), start_exit_code(error), see_help="atoll run") from error


class _Start:
    """Starts the container; with `timed`, `timings` says afterwards where the time went, or why that is not known."""

    def __init__(self, session: Session, container: str, detach_keys: str | None, *, timed: bool) -> None:
        self._session = session
        self._container = container
        self._detach_keys = detach_keys
        self._timed = timed
        self.timings = ""

    def __call__(self) -> None:
        from atoll.client import containers

        client = self._session.client
        containers.start(client, self._container, detach_keys=self._detach_keys)
        if not self._timed:
            return
        from atoll.cli.commands.timings import timings_page

        # At once, and only shown later: the record goes with the container, and its output comes meanwhile.
        try:
            self.timings = timings_page(containers.timings(client, self._container))
        except AtollError as error:
            self.timings = f"the timings of the start are not known: {describe(error)}"


def _converse(
    session: Session,
    container: str,
    flags: ContainerFlags,
    streams: set[str],
    start: "Callable[[], None]",
    *,
    detach_keys: str | None,
    sig_proxy: bool,
) -> int:
    """Attach before the start, so that no byte is missed; register the wait before it, so that no end is."""
    from atoll.cli.commands.attach import converse

    code = converse(
        session,
        container,
        tty=flags.tty,
        streams=streams,
        detach_keys=detach_keys,
        sig_proxy=sig_proxy,
        until="removed" if flags.rm else "next-exit",
        start=start,
    )
    return code or 0
