"""`atoll diff`."""

from collections.abc import Sequence

from atoll.cli.session import Session
from atoll.cli.verb import verb

KINDS = "CAD"


@verb(
    "diff",
    "CONTAINER",
    help="Inspect changes to files or directories on a container's filesystem",
    at_least=1,
    at_most=1,
    aliases=("atoll container diff", "atoll diff"),
)
def diff(session: Session, arguments: Sequence[str]) -> None:
    """Print what a container has changed, added and deleted."""
    from atoll.client import archives

    for change in archives.changes(session.client, arguments[0]):
        session.print(f"{KINDS[change['Kind']]} {change['Path']}")
