"""`atoll rm`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client

NOT_FOUND_STATUS = 404


@verb(
    "rm",
    "CONTAINER [CONTAINER...]",
    help="Remove one or more containers",
    at_least=1,
    aliases=("atoll container rm", "atoll container remove", "atoll rm"),
)
@switch("-f", "--force", help="Force the removal of a running container (uses SIGKILL)")
@switch("-v", "--volumes", help="Remove anonymous volumes associated with the container")
def rm(session: Session, force: bool, volumes: bool, arguments: Sequence[str]) -> None:
    """Remove containers."""
    from atoll.client import EngineError, containers

    def act(client: "Client", name: str) -> str | None:
        try:
            containers.remove(client, name.strip("/"), force=force, volumes=volumes)
        except EngineError as error:
            # As with `rm -f`: what is not there need not be removed.
            if not force or error.status != NOT_FOUND_STATUS:
                raise
            session.warn(f"Error response from engine: {error}")
            return ""
        return None

    each(session, arguments, act)
