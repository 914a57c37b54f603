"""`atoll pause` and `atoll unpause`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client


@verb(
    "pause",
    "CONTAINER [CONTAINER...]",
    help="Pause all processes within one or more containers",
    at_least=1,
    aliases=("atoll container pause", "atoll pause"),
)
def pause(session: Session, arguments: Sequence[str]) -> None:
    """Pause containers."""
    from atoll.client import containers

    def act(client: "Client", name: str) -> None:
        containers.pause(client, name)

    each(session, arguments, act)


@verb(
    "unpause",
    "CONTAINER [CONTAINER...]",
    help="Unpause all processes within one or more containers",
    at_least=1,
    aliases=("atoll container unpause", "atoll unpause"),
)
def unpause(session: Session, arguments: Sequence[str]) -> None:
    """Let paused containers run on."""
    from atoll.client import containers

    def act(client: "Client", name: str) -> None:
        containers.unpause(client, name)

    each(session, arguments, act)
