"""`atoll stop` and `atoll restart`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.flags import INTEGER, flag
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client

SIGNAL = flag("-s", "--signal", help="Signal to send to the container")
TIMEOUT = flag("-t", "--timeout", "--time", kind=INTEGER, help="Seconds to wait before killing the container")


@verb(
    "stop",
    "CONTAINER [CONTAINER...]",
    help="Stop one or more running containers",
    at_least=1,
    aliases=("atoll container stop", "atoll stop"),
)
@SIGNAL
@TIMEOUT
def stop(session: Session, signal: str | None, timeout: int | None, arguments: Sequence[str]) -> None:
    """Stop containers."""
    from atoll.client import containers

    def act(client: "Client", name: str) -> None:
        containers.stop(client, name, signal=signal, timeout_s=timeout)

    each(session, arguments, act)


@verb(
    "restart",
    "CONTAINER [CONTAINER...]",
    help="Restart one or more containers",
    at_least=1,
    aliases=("atoll container restart", "atoll restart"),
)
@SIGNAL
@TIMEOUT
def restart(session: Session, signal: str | None, timeout: int | None, arguments: Sequence[str]) -> None:
    """Stop containers and start them again."""
    from atoll.client import containers

    def act(client: "Client", name: str) -> None:
        containers.restart(client, name, signal=signal, timeout_s=timeout)

    each(session, arguments, act)
