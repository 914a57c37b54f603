"""`atoll port`: where the ports of a container are on the host."""

from collections.abc import Sequence

from atoll.cli.errors import Failure
from atoll.cli.session import Session
from atoll.cli.values.ports import host_address, parse_port
from atoll.cli.verb import verb


@verb(
    "port",
    "CONTAINER [PRIVATE_PORT[/PROTO]]",
    help="List port mappings or a specific mapping for the container",
    at_least=1,
    at_most=2,
    aliases=("atoll container port", "atoll port"),
)
def port(session: Session, arguments: Sequence[str]) -> None:
    """Print the addresses on the host, of one port or of all."""
    from atoll.client import containers

    container, *wanted = arguments
    ports = (containers.get(session.client, container).get("NetworkSettings") or {}).get("Ports") or {}
    if wanted:
        try:
            name = parse_port(wanted[0])
        except ValueError as error:
            raise Failure(str(error)) from None
        bindings = ports.get(name)
        if not bindings:
            raise Failure(f"no public port '{name}' published for {container}")
        session.print("\n".join(host_address(binding["HostIp"], binding["HostPort"]) for binding in bindings))
        return
    lines = [
        f"{name} -> {host_address(binding['HostIp'], binding['HostPort'])}"
        for name, bindings in sorted(ports.items(), key=lambda entry: _order(entry[0]))
        for binding in bindings or ()
    ]
    if lines:
        session.print("\n".join(lines))


def _order(name: str) -> tuple[int, str]:
    number, _, protocol = name.partition("/")
    return int(number), protocol
