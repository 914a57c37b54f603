"""What a way out looks like from inside: an interface `uplink` with addresses, and gateways behind it.

Addresses are chosen so that they do not hide anything that the host reaches: from the shared range of RFC 6598, from
the benchmarks' of RFC 2544 when that is in use, and a unique local one of RFC 4193.
"""

import ipaddress
from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

from msgspec import Struct

from atoll.errors import Unavailable

INTERFACE = "uplink"
_RANGES = tuple(ipaddress.IPv4Network(text) for text in ("100.64.0.0/10", "198.18.0.0/15"))
_ATTEMPTS = 64


class Wish(Struct, frozen=True, kw_only=True):
    """The way out that a network is to have; `name` is the first 12 digits of the network's id."""

    kind: Literal["pasta", "veth"]
    name: str
    to_host: bool = False


class Link(Struct, frozen=True, kw_only=True):
    """The addresses (with prefix lengths) of `uplink`, and of its gateways; "" where the host does not have that IP.

    `configured`: the interface has them already.
    """

    ipv4: str
    gateway4: str
    ipv6: str
    gateway6: str
    configured: bool


def choose_link(name: str, taken: Iterable[str], *, configured: bool) -> Link:
    """Addresses for the way out of the network `name`, outside the networks that are `taken` on the host."""
    ipv4 = [
        network
        for network in (ipaddress.ip_network(text, strict=False) for text in taken)
        if isinstance(network, ipaddress.IPv4Network) and network.prefixlen > 0
    ]
    for attempt in range(_ATTEMPTS):
        digest = sha256(f"{name}/{attempt}".encode()).digest()
        within = _RANGES[attempt * len(_RANGES) // _ATTEMPTS]
        places = within.num_addresses // 4
        first = within.network_address + int.from_bytes(digest[:4]) % places * 4
        four = ipaddress.IPv4Network((first, 30))
        if any(four.overlaps(network) for network in ipv4):
            continue
        six = ipaddress.IPv6Address(b"\xfd" + digest[4:11] + bytes(8))
        return Link(
            ipv4=f"{four[2]}/30",
            gateway4=str(four[1]),
            ipv6=f"{six + 2}/64",
            gateway6=str(six + 1),
            configured=configured,
        )
    raise Unavailable(
        "no addresses are free for the way out of a network: the host has routes for all of 100.64.0.0/10"
    )
