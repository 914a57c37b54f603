"""Which networks there are, and who is on them: the plan that segments and VMs follow.

Nothing counts addresses: which are taken is read off the containers' records, which have them from creation to
removal.
"""

import secrets
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from ipaddress import IPv6Network, ip_network
from typing import Literal

from atoll.engine.address_plan import (
    AnyNetwork,
    checked_address,
    checked_subnet,
    free_address,
    free_ipv4_subnet,
    free_ipv6_subnet,
    host_routes,
    is_ipv6,
    mac_address,
    new_site,
    site_of,
)
from atoll.engine.events import EventBus
from atoll.engine.network import (
    BRIDGE,
    HOST,
    NONE,
    PREDEFINED,
    NetworkOptions,
    NetworkRequest,
    NetworkTable,
    check_mtu,
    check_network_name,
)
from atoll.engine.record import ContainerRecord
from atoll.errors import Conflict, InvalidRequest, NotFound
from atoll.model.network import Attachment, Network, NetworkWish, Subnet

MOST_NETWORKS = 4
"""So many network devices a VM has (`atoll.vmm.slots.NETWORKS`)."""
_MTU = 1500
_DRIVERS: dict[str, Literal["bridge", "host", "null"]] = {"bridge": "bridge", "host": "host", "null": "null"}


class Topology:
    """All networks of an engine; `records` are the containers that may be on them."""

    def __init__(
        self,
        table: NetworkTable,
        records: Callable[[], Iterable[ContainerRecord]],
        events: EventBus,
        pools: tuple[str, ...],
        routes: Callable[[], Collection[AnyNetwork]] = host_routes,
    ) -> None:
        """Open them, and make those that are always there; new ones get their subnets from `pools`."""
        self._table = table
        self._records = records
        self._events = events
        self._pools = pools
        self._routes = routes
        self._networks = {network.id: network for network in table.all()}
        self._last_ipv4: dict[str, str] = {}
        self._last_ipv6: dict[str, str] = {}
        self._site = self._find_site()
        for name, driver in ((BRIDGE, "bridge"), (HOST, "host"), (NONE, "null")):
            if not any(network.name == name for network in self._networks.values()):
                self._insert(self._planned(NetworkRequest(name=name, driver=driver)))

    # --- found

    def all(self) -> list[Network]:
        """Every network, by name."""
        return sorted(self._networks.values(), key=lambda network: network.name)

    def get(self, reference: str) -> Network:
        """By full id, name, or a beginning of exactly one id; raises `NotFound`, or `InvalidRequest` when ambiguous."""
        if network := self._networks.get(reference):
            return network
        for network in self._networks.values():
            if network.name == reference:
                return network
        found = [network for id, network in self._networks.items() if reference and id.startswith(reference)]
        if len(found) > 1:
            raise InvalidRequest(f"network {reference} is ambiguous ({len(found)} matches found based on ID prefix)")
        if not found:
            raise NotFound(f"network {reference} not found")
        return found[0]

    def members(self, network_id: str) -> list[tuple[ContainerRecord, Attachment]]:
        """The containers on a network, whether they run or not."""
        return [
            (record, attachment)
            for record in self._records()
            for attachment in record.attachments
            if attachment.network_id == network_id
        ]

    # --- made and removed

    def create(self, request: NetworkRequest) -> Network:
        """A new network; raises `InvalidRequest`, and `Conflict` when its name or its addresses are another's."""
        if request.name in PREDEFINED:
            raise Conflict(f"operation is not permitted on predefined {request.name} network")
        name = check_network_name(request.name)
        if any(network.name == name for network in self._networks.values()):
            raise Conflict(f"network with name {name} already exists")
        network = self._planned(request)
        self._insert(network)
        self.publish("create", network)
        return network

    def remove(self, network: Network) -> None:
        """Forget a network; raises `Conflict` for one that is always there, or that containers are on."""
        if network.name in PREDEFINED:
            raise Conflict(f"{network.name} is a pre-defined network and cannot be removed")
        if members := self.members(network.id):
            names = ", ".join(f'name:"{record.name}" id:"{record.id[:12]}"' for record, _ in members)
            raise Conflict(
                f"error while removing network: network {network.name} has active endpoints ({names}): disconnect or "
                "remove these containers first"
            )
        self._table.delete(network.id)
        del self._networks[network.id]
        for last in (self._last_ipv4, self._last_ipv6):
            last.pop(network.id, None)
        self.publish("destroy", network)

    def _insert(self, network: Network) -> None:
        self._table.insert(network)
        self._networks[network.id] = network

    def _planned(self, request: NetworkRequest) -> Network:
        options = NetworkOptions.parse(request.options)
        ipv4, ipv6 = self._subnets(request)
        mtu = request.mtu or options.mtu or _MTU
        return Network(
            id=secrets.token_hex(32),
            name=request.name,
            created_at=datetime.now(UTC),
            driver=_DRIVERS[request.driver],
            ipv4=ipv4,
            ipv6=ipv6,
            mtu=check_mtu(mtu, with_ipv6=ipv6 is not None),
            internal=request.internal,
            isolated=options.is_isolated,
            reaches_metadata=options.reaches_metadata,
            labels=request.labels,
            options=request.options,
        )

    def _subnets(self, request: NetworkRequest) -> tuple[Subnet | None, Subnet | None]:
        if request.driver == "null":
            return None, None
        taken = self._taken_subnets()
        given: dict[bool, Subnet] = {}
        for asked in request.subnets:
            version = is_ipv6(asked)
            if version in given:
                raise InvalidRequest("a network has one subnet of IPv4 and one of IPv6 at most")
            given[version] = checked_subnet(asked, taken)
        if True in given and request.enable_ipv6 is False:
            raise InvalidRequest(f"the subnet {given[True].subnet} needs IPv6: leave out --ipv6=false")
        routes = self._routes() if len(given) < 2 else ()  # IPv4 and IPv6
        ipv4 = given.get(False) or free_ipv4_subnet(self._pools, [*taken, *routes])
        ipv6 = given.get(True)
        if ipv6 is None and request.enable_ipv6 is not False:
            ipv6 = free_ipv6_subnet(self._site, [*taken, *routes])
        return ipv4, ipv6

    def _taken_subnets(self) -> list[AnyNetwork]:
        subnets = (subnet for network in self._networks.values() for subnet in (network.ipv4, network.ipv6))
        return [ip_network(subnet.subnet) for subnet in subnets if subnet is not None]

    def _find_site(self) -> IPv6Network:
        """The engine's /48: what the network `bridge` has its subnet from, made with it."""
        found = next((network for network in self._networks.values() if network.name == BRIDGE), None)
        return new_site() if found is None or found.ipv6 is None else site_of(found.ipv6)

    # --- who is on them

    def attached(self, container_id: str, wishes: Iterable[NetworkWish]) -> tuple[Attachment, ...]:
        """A new container's places on the networks that it is to be on, in this order: the first is `eth0`.

        Raises `NotFound`, `InvalidRequest`, and `Conflict` when an address is another's. Nothing is awaited from here
        to where the container's record is among all others.
        """
        attachments: tuple[Attachment, ...] = ()
        for wish in wishes:
            attachments += (self.attachment(container_id, attachments, wish),)
        return attachments

    def attachment(self, container_id: str, present: Collection[Attachment], wish: NetworkWish) -> Attachment:
        """A place for a container on one more network than those of `present`; raises as `attached`."""
        network = self.get(wish.network)
        if network.driver == "null":
            raise InvalidRequest("cannot connect container to none: it is no network, but the absence of any")
        if any(attachment.network_id == network.id for attachment in present):
            raise Conflict(f"container {container_id[:12]} is already attached to network {network.name}")
        others = [self._networks[attachment.network_id].driver for attachment in present]
        if "host" in others or (others and network.driver == "host"):
            raise Conflict("container cannot be connected to host network and to another one")
        slots = {attachment.slot for attachment in present}
        slot = next((slot for slot in range(MOST_NETWORKS) if slot not in slots), None)
        if slot is None:
            raise Conflict(
                f"container {container_id[:12]} is on {MOST_NETWORKS} networks, and has no more interfaces: "
                "disconnect it from one first"
            )
        taken = [attachment for _, attachment in self.members(network.id)]
        return Attachment(
            network_id=network.id,
            slot=slot,
            mac=_mac(container_id, network, wish, {attachment.mac for attachment in taken}),
            ipv4=_address(network, network.ipv4, wish.ipv4, {other.ipv4 for other in taken}, self._last_ipv4),
            ipv6=_address(network, network.ipv6, wish.ipv6, {other.ipv6 for other in taken}, self._last_ipv6),
            aliases=wish.aliases,
            gateway_priority=wish.gateway_priority,
            wish=wish,
        )

    def publish(self, action: str, network: Network, **attributes: str) -> None:
        """An event about a network."""
        told = {"name": network.name, "type": network.driver, **attributes}
        self._events.publish("network", action, network.id, told)


def _address(network: Network, subnet: Subnet | None, wanted: str, taken: Collection[str], last: dict[str, str]) -> str:
    if wanted:
        return checked_address(subnet, wanted, taken)
    if subnet is None:
        return ""
    given = last[network.id] = free_address(subnet, taken, last.get(network.id, ""))
    return given


def _mac(container_id: str, network: Network, wish: NetworkWish, taken: Collection[str]) -> str:
    if not wish.mac:
        return mac_address(container_id, network.id, taken)
    if wish.mac in taken:
        raise Conflict(f"MAC address {wish.mac} is already in use on network {network.name}")
    return wish.mac
