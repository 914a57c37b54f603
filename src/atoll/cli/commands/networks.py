"""`atoll network create|ls|rm|prune|connect|disconnect|trace` (`inspect.py` shows one)."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.cli.commands.ps import SHORT_ID
from atoll.cli.confirm import confirm
from atoll.cli.errors import Failure
from atoll.cli.flags import INTEGER, LIST, Kind, flag, switch
from atoll.cli.listing import FORMAT, Filters, collect, filters_flag, listing
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.values.environment import key_values, parse_label
from atoll.cli.values.networks import endpoint
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import Network, Object

HEADERS = {
    "ID": "NETWORK ID",
    "Name": "NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "IPv4": "IPV4",
    "IPv6": "IPV6",
    "Internal": "INTERNAL",
    "Labels": "LABELS",
    "CreatedAt": "CREATED AT",
}
COLUMNS = ("ID", "Name", "Driver", "Scope")
MTU_OPTION = "com.docker.network.driver.mtu"
UNUSED = "all custom networks not used by at least one container"


@verb("create", "NETWORK", help="Create a network", at_least=1, at_most=1)
@flag("-d", "--driver", default="bridge", help="Driver to manage the Network")
@flag("--gateway", kind=LIST, multiple=True, help="IPv4 or IPv6 Gateway for the subnet")
@switch("--internal", help="Restrict external access to the network")
@flag("--ip-range", kind=LIST, multiple=True, help="Allocate container ip from a sub-range")
@switch("--ipv4", default=None, help="Enable or disable IPv4 address assignment")
@switch("--ipv6", default=None, help="Enable or disable IPv6 address assignment")
@flag("--label", kind=Kind("list", parse_label), multiple=True, help="Set metadata on a network")
@flag("--mtu", kind=INTEGER, help="Largest packet of the network in bytes, as --opt mtu")
@flag("-o", "--opt", kind=LIST, multiple=True, help="Set driver specific options: isolate=true, metadata=allow")
@flag("--subnet", kind=LIST, multiple=True, help="Subnet in CIDR format that represents a network segment")
@flag("--subnet-v6", kind=LIST, multiple=True, help="IPv6 subnet, as --subnet")
def create(
    session: Session,
    driver: str,
    gateway: Sequence[str],
    internal: bool,
    ip_range: Sequence[str],
    ipv4: bool | None,
    ipv6: bool | None,
    label: Sequence[str],
    mtu: int | None,
    opt: Sequence[str],
    subnet: Sequence[str],
    subnet_v6: Sequence[str],
    arguments: Sequence[str],
) -> None:
    """Make a network and print its id."""
    from atoll.cli.values.subnets import match_subnets
    from atoll.client import networks

    try:
        subnets = match_subnets([*subnet, *subnet_v6], ip_range, gateway)
    except ValueError as error:
        raise Failure(str(error)) from None
    options = key_values(opt) | ({MTU_OPTION: str(mtu)} if mtu is not None else {})
    body: Object = {
        "Name": arguments[0],
        "Driver": driver,
        "Internal": internal,
        "IPAM": {"Driver": "default", "Config": [{**subnet} for subnet in subnets]},
        "Options": {**options},
        "Labels": {**key_values(label)},
    }
    for field, value in (("EnableIPv4", ipv4), ("EnableIPv6", ipv6)):
        if value is not None:
            body[field] = value
    session.print(networks.create(session.client, body))


@verb("ls", help="List networks", at_most=0, aliases=("atoll network ls", "atoll network list"))
@filters_flag("-f", help='Provide filter values (e.g. "driver=bridge")')
@FORMAT
@switch("--no-trunc", help="Do not truncate the output")
@switch("-q", "--quiet", help="Only display network IDs")
def ls(
    session: Session,
    filters: Filters,
    format: str | None,
    no_trunc: bool,
    quiet: bool,
    arguments: Sequence[str],
) -> None:
    """List the networks, by name."""
    from atoll.client import networks

    found = networks.list_networks(session.client, collect(filters))
    if quiet and not format:
        format = "{{.ID}}"
    rows = [_row(network, truncate=not no_trunc) for network in sorted(found, key=lambda network: network["Name"])]
    text = listing(rows, HEADERS, COLUMNS, format)
    if text or rows:
        session.print(text)


@verb(
    "rm",
    "NETWORK [NETWORK...]",
    help="Remove one or more networks",
    at_least=1,
    aliases=("atoll network rm", "atoll network remove"),
)
@switch("-f", "--force", help="Do not error if the network does not exist")
def rm(session: Session, force: bool, arguments: Sequence[str]) -> None:
    """Remove networks that nobody is on."""
    from atoll.client import Client, EngineError, networks

    def act(client: Client, name: str) -> str | None:
        try:
            networks.remove(client, name)
        except EngineError as error:
            if not force or error.status != 404:
                raise
            return ""
        return None

    each(session, arguments, act)


@verb("prune", help="Remove all unused networks", at_most=0)
@filters_flag(help='Provide filter values (e.g. "until=<timestamp>")')
@switch("-f", "--force", help="Do not prompt for confirmation")
def prune(session: Session, filters: Filters, force: bool, arguments: Sequence[str]) -> None:
    """Remove the networks that no container is on."""
    from atoll.client import networks

    if not force and not confirm(f"WARNING! This will remove {UNUSED}."):
        return
    if deleted := networks.prune(session.client, collect(filters)).get("NetworksDeleted"):
        session.print("\n".join(["Deleted Networks:", *deleted, ""]))


@verb("connect", "NETWORK CONTAINER", help="Connect a container to a network", at_least=2, at_most=2)
@flag("--alias", kind=LIST, multiple=True, help="Add network-scoped alias for the container")
@flag("--gw-priority", kind=INTEGER, help="Highest gw-priority provides the default gateway. Accepts negative values")
@flag("--ip", help='IPv4 address (e.g., "172.30.100.104")')
@flag("--ip6", help='IPv6 address (e.g., "2001:db8::33")')
@flag("--mac-address", help='MAC address (e.g., "92:d0:c6:0a:29:33")')
def connect(
    session: Session,
    alias: Sequence[str],
    gw_priority: int | None,
    ip: str | None,
    ip6: str | None,
    mac_address: str | None,
    arguments: Sequence[str],
) -> None:
    """Put a container on a network, at once if it runs."""
    from atoll.client import networks

    try:
        how = endpoint(ip=ip, ip6=ip6, mac=mac_address, aliases=alias, gateway_priority=gw_priority)
    except ValueError as error:
        raise Failure(str(error)) from None
    networks.connect(session.client, arguments[0], arguments[1], how)


@verb("disconnect", "NETWORK CONTAINER", help="Disconnect a container from a network", at_least=2, at_most=2)
@switch("-f", "--force", help="Force the container to disconnect from a network")
def disconnect(session: Session, force: bool, arguments: Sequence[str]) -> None:
    """Take a container off a network."""
    from atoll.client import networks

    networks.disconnect(session.client, arguments[0], arguments[1], force=force)


@verb("trace", "NETWORK", help="Write what goes over a network as a pcap file, until Ctrl-C", at_least=1, at_most=1)
@flag("-w", "--write", "output", help="Write to a file, instead of STDOUT")
def trace(session: Session, output: str | None, arguments: Sequence[str]) -> None:
    """Write the packets of a network until somebody interrupts us."""
    from atoll.cli.trace import copy_until_interrupted
    from atoll.client import networks

    if not output and os.isatty(1):
        raise Failure("the packets of a network are nothing for a terminal: use the -w flag or redirect")
    response = networks.trace(session.client, arguments[0])
    if not output:
        copy_until_interrupted(response, 1)
        return
    try:
        with Path(output).open("wb") as file:
            copy_until_interrupted(response, file.fileno())
    except OSError as error:
        raise Failure(f"{output} cannot be written: {(error.strerror or str(error)).lower()}") from error


def _row(network: "Network", *, truncate: bool) -> dict[str, str]:
    labels = network.get("Labels") or {}
    return {
        "ID": network["Id"][:SHORT_ID] if truncate else network["Id"],
        "Name": network["Name"],
        "Driver": network.get("Driver", ""),
        "Scope": network.get("Scope", ""),
        "IPv4": str(network.get("EnableIPv4", False)).lower(),
        "IPv6": str(network.get("EnableIPv6", False)).lower(),
        "Internal": str(network.get("Internal", False)).lower(),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "CreatedAt": _moment(network.get("Created", "")),
    }


def _moment(text: str) -> str:
    """RFC 3339 in UTC as Go writes a time."""
    date, _, rest = text.removesuffix("Z").partition("T")
    seconds, _, fraction = rest.partition(".")
    fraction = fraction.rstrip("0")
    return f"{date} {seconds}{fraction and '.'}{fraction} +0000 UTC"
