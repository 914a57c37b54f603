"""`atoll rename`."""

from collections.abc import Sequence

from atoll.cli.session import Session
from atoll.cli.verb import verb


@verb(
    "rename",
    "CONTAINER NEW_NAME",
    help="Rename a container",
    at_least=2,
    at_most=2,
    aliases=("atoll container rename", "atoll rename"),
)
def rename(session: Session, arguments: Sequence[str]) -> None:
    """Give a container another name."""
    from atoll.client import containers

    container, name = arguments
    containers.rename(session.client, container, name)
