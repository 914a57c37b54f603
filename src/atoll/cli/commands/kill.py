"""`atoll kill`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.flags import flag
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client


@verb(
    "kill",
    "CONTAINER [CONTAINER...]",
    help="Kill one or more running containers",
    at_least=1,
    aliases=("atoll container kill", "atoll kill"),
)
@flag("-s", "--signal", help="Signal to send to the container")
def kill(session: Session, signal: str | None, arguments: Sequence[str]) -> None:
    """Send a signal, SIGKILL unless told otherwise."""
    from atoll.client import containers

    def act(client: "Client", name: str) -> None:
        containers.kill(client, name, signal=signal)

    each(session, arguments, act)
