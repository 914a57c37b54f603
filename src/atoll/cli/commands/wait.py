"""`atoll wait`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client


@verb(
    "wait",
    "CONTAINER [CONTAINER...]",
    help="Block until one or more containers stop, then print their exit codes",
    at_least=1,
    aliases=("atoll container wait", "atoll wait"),
)
def wait(session: Session, arguments: Sequence[str]) -> None:
    """Print the exit codes of containers when they have stopped."""
    from atoll.cli.commands.attach import exit_code
    from atoll.client import containers

    def act(client: "Client", name: str) -> str:
        return str(exit_code(containers.begin_wait(client, name)()))

    each(session, arguments, act)
