"""From which address a container is spoken to: the client's own, or else the gateway's.

A socket with `IP_TRANSPARENT` may have any address; in a namespace of our own we may make one, with root and without.
The container answers to the client's address, which is to say to its gateway; there the filter marks what belongs to
such a socket, and a rule takes what is marked for ours. Source: the kernel's Documentation/networking/tproxy.rst.
"""

import ipaddress
import logging
import socket
from collections.abc import Collection
from contextlib import closing

from atoll.errors import VmFailed
from atoll.model.network import SegmentSpec
from atoll.network.routes import Routes
from atoll.network.segment.nftables import Nftables

_LOG = logging.getLogger(__name__)
_TABLE = "inet atoll-ports"
_MARK = 0x61740A
_ROUTES = 6174
_IPV6_TRANSPARENT = 75

_RULES = f"""\
add table {_TABLE}
delete table {_TABLE}
table {_TABLE} {{
    chain prerouting {{
        type filter hook prerouting priority mangle; policy accept;
        iifname "br0" meta l4proto {{ tcp, udp }} socket transparent 1 meta mark set {_MARK}
    }}
}}
"""


class Source:
    """What a client's address is to the container."""

    def __init__(self) -> None:
        self._families: set[int] = set()
        self._ours: frozenset[str] = frozenset()
        self._subnets: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def configure(self, spec: SegmentSpec) -> None:
        """Prepare the namespace; without success every client is the gateway."""
        subnets = [subnet for subnet in (spec.network.ipv4, spec.network.ipv6) if subnet is not None]
        self._subnets = tuple(ipaddress.ip_network(subnet.subnet, strict=False) for subnet in subnets)
        self._ours = frozenset(spec.host_addresses)
        try:
            nftables = Nftables()
            try:
                nftables.run(_RULES)
            finally:
                nftables.close()
        except VmFailed as error:
            _LOG.warning("containers see the gateway in place of their clients: %s", error)
            self._families = set()
            return
        with closing(Routes()) as routes:
            loopback = routes.links()["lo"].number
            routes.set_link(loopback, up=True)
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    routes.add_local(family, loopback, _MARK, _ROUTES)
                    self._families.add(family)
                except OSError as error:
                    _LOG.warning("containers see the gateway in place of some clients: %s", error)

    def can_be(self, client: str, target: str, asked: str) -> bool:
        """Whether the container at `target` can see `client`, who has come to the host's address `asked`.

        Not if that is the host itself, which the container knows as its gateway.
        """
        return client != asked and self.is_foreign(client, target, self._ours)

    def is_foreign(self, client: str, target: str, ours: Collection[str]) -> bool:
        """Whether `client` is of the same family as `target`, and an address that is neither ours nor a container's."""
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        if family not in self._families or client in ours:
            return False
        address = ipaddress.ip_address(client.partition("%")[0])
        if address.version != (6 if family == socket.AF_INET6 else 4):
            return False
        if address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified:
            return False
        return not any(address in subnet for subnet in self._subnets)


def pretend(sock: socket.socket, client: str, port: int) -> None:
    """Give `sock` the address of a client; raises `OSError`."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    # The same client may come to several ports; what it comes from is unique with what it comes to.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((client, port))
