"""`atoll logs`: what a container printed."""

from collections.abc import Sequence

from atoll.cli.flags import Kind, flag, switch
from atoll.cli.session import Session
from atoll.cli.values.times import parse_moment
from atoll.cli.verb import verb

MOMENT = Kind("string", parse_moment)


@verb(
    "logs",
    "CONTAINER",
    help="Fetch the logs of a container",
    at_least=1,
    at_most=1,
    aliases=("atoll container logs", "atoll logs"),
)
@switch("--details", help="Show extra details provided to logs")
@switch("-f", "--follow", help="Follow log output")
@flag("--since", kind=MOMENT, help='Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")')
@flag("-n", "--tail", default="all", help="Number of lines to show from the end of the logs")
@switch("-t", "--timestamps", help="Show timestamps")
@flag(
    "--until", kind=MOMENT, help='Show logs before a timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m")'
)
def logs(
    session: Session,
    details: bool,
    follow: bool,
    since: str | None,
    tail: str,
    timestamps: bool,
    until: str | None,
    arguments: Sequence[str],
) -> None:
    """Print a container's output, its stdout on ours and its stderr on ours."""
    from atoll.client import containers
    from atoll.client.streams import copy_output

    (container,) = arguments
    tty = bool(containers.get(session.client, container)["Config"].get("Tty"))
    response = containers.logs(
        session.client,
        container,
        follow=follow,
        since=since,
        until=until,
        tail=tail,
        timestamps=timestamps,
        details=details,
    )
    copy_output(response.chunks(), {1: 1, 2: 2}, multiplexed=not tty)
