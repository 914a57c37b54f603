"""The address plan: which subnet a new network gets, and which addresses a container on it.

Everything here is computed from what is given: who has what is in the records of networks and containers, so nothing
has to be given back. New addresses follow the last one that was given, and go round: neighbours may remember for a
while whose an address was.
"""

import hashlib
import secrets
from collections.abc import Collection, Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path

from atoll.errors import Conflict, InvalidRequest
from atoll.model.network import Subnet

AnyNetwork = IPv4Network | IPv6Network
AnyAddress = IPv4Address | IPv6Address

_IPV4_PREFIX = 24
_IPV6_PREFIX = 64
_SITE_PREFIX = 48
_LOCAL = 0xFD
_LONGEST_PREFIXES = {4: 30, 6: 126}
"""A gateway and one container have to fit in."""
_OVERLAPS = "Pool overlaps with other one on this address space"
_ROUTE_IS_UP = 0x1


# --- subnets


def new_site() -> IPv6Network:
    """A /48 of unique local addresses that is, in all probability, nobody else's (RFC 4193, section 3.2.2)."""
    global_id = secrets.token_bytes(5)
    return IPv6Network((bytes((_LOCAL,)) + global_id + bytes(10), _SITE_PREFIX))


def site_of(subnet: Subnet) -> IPv6Network:
    """The /48 that a subnet is of."""
    return IPv6Network(subnet.subnet).supernet(new_prefix=_SITE_PREFIX)


def free_ipv4_subnet(pools: Iterable[str], taken: Collection[AnyNetwork]) -> Subnet:
    """The first /24 of `pools` that nobody has; raises `Conflict` when there is none."""
    for pool in pools:
        whole = IPv4Network(pool)
        for subnet in whole.subnets(new_prefix=max(_IPV4_PREFIX, whole.prefixlen)):
            if not any(_overlap(subnet, other) for other in taken):
                return _with_gateway(subnet)
    raise Conflict(
        "all predefined address pools have been fully subnetted: name a free subnet with --subnet, or set network_pools"
    )


def free_ipv6_subnet(site: IPv6Network, taken: Collection[AnyNetwork]) -> Subnet:
    """The first /64 of `site` that nobody has; raises `Conflict` when there is none."""
    for subnet in site.subnets(new_prefix=_IPV6_PREFIX):
        if not any(_overlap(subnet, other) for other in taken):
            return _with_gateway(subnet)
    raise Conflict("all IPv6 subnets of this engine are taken: name a free subnet with --subnet")


def checked_subnet(asked: Subnet, taken: Iterable[AnyNetwork]) -> Subnet:
    """The subnet that a user gave, with a gateway; raises `InvalidRequest`, and `Conflict` for one that overlaps."""
    subnet = _parse_network("subnet", asked.subnet)
    if subnet.prefixlen > _LONGEST_PREFIXES[subnet.version]:
        raise InvalidRequest(f"invalid subnet {asked.subnet}: it has no room for a gateway and a container")
    if subnet.is_loopback or subnet.is_multicast or subnet.is_unspecified or subnet.is_link_local:
        raise InvalidRequest(f"invalid subnet {asked.subnet}: these addresses are not for networks")
    if any(_overlap(subnet, other) for other in taken):
        raise Conflict(f"invalid pool request: {_OVERLAPS}")
    checked = _with_gateway(subnet)
    if asked.gateway:
        gateway = _parse_address("gateway", asked.gateway)
        if gateway not in subnet:
            raise InvalidRequest(f"no matching subnet for gateway {asked.gateway}")
        if not _is_usable(subnet, gateway):
            raise InvalidRequest(f"invalid gateway {asked.gateway}: the address is the subnet's own")
        checked = Subnet(subnet=checked.subnet, gateway=str(gateway))
    if asked.range:
        part = _parse_network("range", asked.range)
        if part.version != subnet.version or not _within(part, subnet):
            raise InvalidRequest(f"no matching subnet for range {asked.range}")
        checked = Subnet(subnet=checked.subnet, gateway=checked.gateway, range=str(part))
    return checked


def is_ipv6(subnet: Subnet) -> bool:
    """Whether what a user gave as a subnet is one of IPv6; raises `InvalidRequest` when it is none."""
    if not subnet.subnet:
        raise InvalidRequest("a gateway or an IP range needs a subnet: give --subnet as well")
    return _parse_network("subnet", subnet.subnet).version == 6


def _with_gateway(subnet: AnyNetwork) -> Subnet:
    return Subnet(subnet=str(subnet), gateway=str(subnet.network_address + 1))


def _parse_network(what: str, text: str) -> AnyNetwork:
    try:
        return ip_network(text)
    except ValueError as error:
        raise InvalidRequest(f"invalid {what} {text}: {error}") from None


def _parse_address(what: str, text: str) -> AnyAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise InvalidRequest(f"invalid {what} {text}: {error}") from None


def _overlap(one: AnyNetwork, other: AnyNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _within(part: AnyNetwork, whole: AnyNetwork) -> bool:
    return part.network_address in whole and part.broadcast_address in whole


# --- addresses


def free_address(subnet: Subnet, taken: Collection[str], after: str = "") -> str:
    """An address that nobody has, the first behind `after`; raises `Conflict` when there is none."""
    network, part = ip_network(subnet.subnet), ip_network(subnet.range or subnet.subnet)
    first, count = int(part.network_address), part.num_addresses
    begin = 0
    if after and ip_address(after) in part:
        begin = int(ip_address(after)) - first + 1
    # Beside those that are taken, the gateway, the first and the last address of a subnet are nobody's.
    for step in range(min(count, len(taken) + 4)):
        address = ip_address(part.network_address + (begin + step) % count)
        text = str(address)
        if text not in taken and text != subnet.gateway and _is_usable(network, address):
            return text
    raise Conflict(f"no available addresses on this pool: all of {part} are taken")


def checked_address(subnet: Subnet | None, wanted: str, taken: Collection[str]) -> str:
    """The address that a user wants; raises `InvalidRequest` when the network has no such, `Conflict` when taken."""
    address = _parse_address("address", wanted)
    if subnet is None or address not in ip_network(subnet.subnet):
        raise InvalidRequest(f"invalid endpoint settings: no configured subnet contains IP address {wanted}")
    if not _is_usable(ip_network(subnet.subnet), address):
        raise InvalidRequest(f"invalid endpoint settings: {wanted} is the subnet's own address")
    if str(address) == subnet.gateway or str(address) in taken:
        raise Conflict(f"Address already in use: {wanted}")
    return str(address)


def _is_usable(network: AnyNetwork, address: AnyAddress) -> bool:
    is_broadcast = network.version == 4 and address == network.broadcast_address
    return address != network.network_address and not is_broadcast


def mac_address(container_id: str, network_id: str, taken: Collection[str]) -> str:
    """A locally administered address, the same at each call unless it is taken."""
    return next(mac for mac in _macs(container_id, network_id) if mac not in taken)


def _macs(container_id: str, network_id: str) -> Iterator[str]:
    digest = f"{container_id} {network_id}".encode()
    while True:
        digest = hashlib.sha256(digest).digest()
        yield (b"\x02" + digest[:5]).hex(":")


# --- the host's routes


def host_routes() -> list[AnyNetwork]:
    """The networks that the host has routes to, without the default ones (proc(5), `/proc/net/route`)."""
    routes: list[AnyNetwork] = [*_ipv4_routes(), *_ipv6_routes()]
    return [route for route in routes if route.prefixlen]


def _ipv4_routes() -> Iterator[IPv4Network]:
    for line in _lines(Path("/proc/net/route"))[1:]:
        fields = line.split()
        if int(fields[3], 16) & _ROUTE_IS_UP:
            address, mask = (IPv4Address(bytes.fromhex(fields[field])[::-1]) for field in (1, 7))
            yield IPv4Network(f"{address}/{mask}", strict=False)


def _ipv6_routes() -> Iterator[IPv6Network]:
    for line in _lines(Path("/proc/net/ipv6_route")):
        fields = line.split()
        if fields[9] != "lo":
            yield IPv6Network((bytes.fromhex(fields[0]), int(fields[1], 16)), strict=False)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
