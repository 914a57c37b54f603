"""The network's devices in its namespace: the bridge with the gateway's addresses, and the VMs' taps on it.

The bridge learns nothing and floods no unicast: who has which MAC is what the engine says, so no container can draw
another's frames to itself, and none sees what is for another. The gateway is told its neighbours in the same way.

Bridge and taps outlive this process. Names of taps are theirs for as long as their VM lives.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

from atoll.errors import NotFound, VmFailed
from atoll.model.network import Counters, Endpoint, Network, SegmentSpec
from atoll.network import namespaces
from atoll.network.netlink import Link, Netlink
from atoll.network.segment.bridge import BRIDGE, bridge_mac

TAP_PREFIX = "at"
_LOG = logging.getLogger(__name__)
_SYSCTL = Path("/proc/sys/net")


class Links:
    """The part of a segment that owns its devices. `home` leads into the keeper's home, `home_fd` is it."""

    def __init__(self, home: Netlink, home_fd: int) -> None:
        self._home, self._home_fd = home, home_fd
        self._here, self._mover = Netlink(), Netlink()
        self._here_fd = namespaces.own_network()
        self._network: Network | None = None
        self._bridge = 0
        self._endpoints: dict[str, Endpoint] = {}

    async def configure(self, spec: SegmentSpec) -> None:
        """Make the bridge, or what it has to be otherwise; raises `VmFailed`."""
        if spec.network == self._network:
            return
        try:
            self._configure(spec.network)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise VmFailed(f"the network's bridge cannot be set up: {error.strerror}{where}") from error
        self._network = spec.network

    async def put(self, endpoint: Endpoint) -> None:
        """Have the endpoint's tap on the bridge, if it has one; raises `NotFound` when that is gone, `VmFailed`."""
        known = self._endpoints.get(endpoint.id)
        is_away = bool(endpoint.tap) and endpoint.tap not in self._here.links()
        if is_away:
            await self._pull(endpoint.tap)
        try:
            if known is not None and _place(known) != _place(endpoint):
                await self.remove(endpoint.id, but=endpoint.tap)
            if endpoint.tap:
                self._connect(endpoint)
        except BaseException:
            if is_away:
                await self._push(endpoint.tap)
            raise
        self._endpoints[endpoint.id] = endpoint

    async def remove(self, endpoint_id: str, but: str = "") -> None:
        """Give the endpoint's tap back to the keeper's home, if the VM still has it (and it is not `but`)."""
        endpoint = self._endpoints.pop(endpoint_id, None)
        if endpoint is None:
            return
        for address in filter(None, (endpoint.ipv4, endpoint.ipv6)):
            with suppress(FileNotFoundError):
                self._here.remove_neighbour(self._bridge, address)
        if endpoint.tap and endpoint.tap != but:
            await self._push(endpoint.tap)
        elif endpoint.tap and (tap := self._here.links().get(endpoint.tap)):
            with suppress(FileNotFoundError):
                self._here.remove_fdb(tap.number, endpoint.mac)

    async def drop_strangers(self) -> None:
        """Give taps back to the keeper's home that no endpoint has: those of endpoints that went while we were dead."""
        known = {endpoint.tap for endpoint in self._endpoints.values()}
        for tap in self._taps():
            if tap.name not in known:
                await self._push(tap.name)

    async def close(self) -> None:
        """Nothing: the devices go with the namespace."""

    def has_tap(self, name: str) -> bool:
        """Whether a VM's device is on this network."""
        return name in self._here.links()

    def has_taps(self) -> bool:
        """Whether a VM is connected to this network."""
        return bool(self._taps())

    def counters(self) -> dict[str, Counters]:
        """What went over the endpoints' taps, by endpoint: what a tap has received, the container has sent."""
        links = self._here.links()
        return {
            endpoint.id: Counters(
                received_bytes=tap.sent_bytes,
                received_packets=tap.sent_packets,
                received_dropped=tap.sent_dropped,
                sent_bytes=tap.received_bytes,
                sent_packets=tap.received_packets,
                sent_dropped=tap.received_dropped,
            )
            for endpoint in self._endpoints.values()
            if (tap := links.get(endpoint.tap))
        }

    def _configure(self, network: Network) -> None:
        if self._network is None:
            self._prepare(network)
        # A bridge takes no greater MTU than its ports have.
        for tap in self._taps():
            self._here.set_link(tap.number, mtu=network.mtu)
        self._here.set_link(self._bridge, mtu=network.mtu, up=True)
        wanted = {
            f"{subnet.gateway}/{subnet.subnet.partition('/')[2]}" for subnet in (network.ipv4, network.ipv6) if subnet
        }
        present = self._here.addresses(self._bridge)
        for address in wanted - present:
            self._here.add_address(self._bridge, address)
        for address in present - wanted:
            self._here.remove_address(self._bridge, address)

    def _prepare(self, network: Network) -> None:
        """The namespace as it is to be, whoever was here before."""
        with suppress(FileExistsError):
            self._here.add_bridge(BRIDGE, bridge_mac(network.id))
        links = self._here.links()
        self._bridge = links[BRIDGE].number
        self._here.set_link(links["lo"].number, up=True)
        # On a host that has br_netfilter, frames from one tap to another would pass the rules for what is routed.
        for family in ("ip", "ip6", "arp"):
            with suppress(FileNotFoundError):
                _set(f"bridge/bridge-nf-call-{family}tables", "0")
        _set("ipv4/ip_forward", "1")
        # Whoever is asked for another device's address does not answer in its place.
        _set(f"ipv4/conf/{BRIDGE}/arp_ignore", "1")
        for device in ("all", BRIDGE):
            _set(f"ipv4/conf/{device}/send_redirects", "0")
        if Path("/proc/sys/net/ipv6").exists():
            _set("ipv6/conf/all/forwarding", "1")
            _set(f"ipv6/conf/{BRIDGE}/accept_ra", "0")
            _set(f"ipv6/conf/{BRIDGE}/accept_dad", "0")

    def _taps(self) -> list[Link]:
        return [link for link in self._here.links().values() if link.name.startswith(TAP_PREFIX)]

    async def _pull(self, tap: str) -> None:
        try:
            await asyncio.to_thread(self._home.move, tap, self._here_fd)
        except OSError as error:
            raise NotFound(
                f"the network device {tap} is not there: did its VM end? ({os.strerror(error.errno or 0)})"
            ) from error

    async def _push(self, tap: str) -> None:
        try:
            await asyncio.to_thread(self._mover.move, tap, self._home_fd)
        except OSError as error:
            _LOG.info("tap %s does not go back: %s", tap, error.strerror)

    def _connect(self, endpoint: Endpoint) -> None:
        """Put a tap that is here on the bridge; all of it may have been done before."""
        assert self._network is not None, "the segment was configured"
        try:
            tap = self._here.links()[endpoint.tap]
            # The tap speaks for nobody here, and answers to nothing.
            with suppress(FileNotFoundError):
                _set(f"ipv6/conf/{endpoint.tap}/disable_ipv6", "1")
            self._here.set_link(tap.number, mtu=self._network.mtu, master=self._bridge)
            self._here.set_port(tap.number, isolated=self._network.isolated)
            self._here.add_fdb(tap.number, endpoint.mac)
            self._here.set_link(tap.number, up=True)
            for address in filter(None, (endpoint.ipv4, endpoint.ipv6)):
                self._here.add_neighbour(self._bridge, address, endpoint.mac)
        except KeyError:
            raise NotFound(f"the network device {endpoint.tap} is not there: did its VM end?") from None
        except OSError as error:
            raise VmFailed(f"the network device {endpoint.tap} cannot be connected: {error.strerror}") from error


def _place(endpoint: Endpoint) -> tuple[str, str, str, str]:
    """What the devices know of an endpoint."""
    return endpoint.mac, endpoint.ipv4, endpoint.ipv6, endpoint.tap


def _set(name: str, value: str) -> None:
    """Set a sysctl of this namespace, if it is not so already: `/proc/sys` may be read-only in a container."""
    path = _SYSCTL / name
    if path.read_text().strip() != value:
        path.write_text(value)
