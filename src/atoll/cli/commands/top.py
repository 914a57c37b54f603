"""`atoll top`."""

from collections.abc import Sequence

from atoll.cli.session import Session
from atoll.cli.table import table
from atoll.cli.verb import verb

COLUMN_WIDTH = 20


@verb(
    "top",
    "CONTAINER [ps OPTIONS]",
    help="Display the running processes of a container",
    at_least=1,
    interspersed=False,
    aliases=("atoll container top", "atoll top"),
)
def top(session: Session, arguments: Sequence[str]) -> None:
    """Print a container's processes."""
    from atoll.client import containers

    container, *options = arguments
    processes = containers.top(session.client, container, " ".join(options) or None)
    rows = [processes["Titles"], *(processes["Processes"] or ())]
    session.print(table(rows, minimum_width=COLUMN_WIDTH))
