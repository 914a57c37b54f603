"""The engine's networks: the topology, and what becomes of it in segments and running containers."""

from collections.abc import AsyncGenerator, Callable

from msgspec.structs import replace

from atoll.engine.container import Container
from atoll.engine.network import BRIDGE, PREDEFINED, NetworkRequest
from atoll.engine.networking import Networking
from atoll.engine.record import ContainerRecord
from atoll.engine.registry import Registry
from atoll.engine.segments import Segments
from atoll.engine.topology import Topology
from atoll.errors import Conflict, InvalidRequest
from atoll.model.network import Attachment, Counters, Network, NetworkWish

__all__ = ["PREDEFINED", "NetworkRequest", "Networks"]


class Networks:
    """What the API serves of networks."""

    def __init__(
        self, topology: Topology, segments: Segments, networking: Networking, containers: Registry[Container]
    ) -> None:
        self._topology = topology
        self._segments = segments
        self._networking = networking
        self._containers = containers

    def all(self) -> list[Network]:
        """Every network, by name."""
        return self._topology.all()

    def get(self, reference: str) -> Network:
        """By full id, name, or a beginning of exactly one id; raises `NotFound`, or `InvalidRequest` when ambiguous."""
        return self._topology.get(reference)

    def containers(self, network_id: str) -> list[tuple[Container, Attachment]]:
        """The containers on a network, whether they run or not."""
        members = self._topology.members(network_id)
        return [(self._containers.get(record.id), attachment) for record, attachment in members]

    async def create(self, request: NetworkRequest) -> Network:
        """A new network; raises `InvalidRequest`, and `Conflict` when its name or its addresses are another's."""
        return self._topology.create(request)

    async def remove(self, reference: str) -> None:
        """Remove a network; raises `NotFound`, and `Conflict` for those always there and those containers are on."""
        network = self.get(reference)
        self._topology.remove(network)
        await self._segments.end(network)

    async def prune(self, keep: Callable[[Network], bool]) -> list[Network]:
        """Remove the networks that no container is on, without those that `keep` wants; which they were."""
        pruned = []
        for network in self.all():
            if network.name not in PREDEFINED and not self._topology.members(network.id) and not keep(network):
                await self.remove(network.id)
                pruned.append(network)
        return pruned

    async def connect(self, reference: str, container: Container, wish: NetworkWish) -> None:
        """Put a container on one more network, at once if it runs.

        Raises `NotFound`, `InvalidRequest`, `Conflict` when it is on it already or an address is taken, `Unavailable`.
        """
        network = self.get(reference)

        def plan(record: ContainerRecord) -> tuple[Attachment, ...]:
            made = self._topology.attachment(record.id, record.attachments, replace(wish, network=network.name))
            return (*record.attachments, made)

        await container.change_networks(plan)

    async def disconnect(self, reference: str, container: Container, force: bool) -> None:
        """Take a container off a network, at once if it runs; raises `NotFound`, and `Conflict` when it is not on it.

        `force` says nothing here: who is not connected cannot be disconnected.
        """
        network = self.get(reference)

        def plan(record: ContainerRecord) -> tuple[Attachment, ...]:
            left = tuple(attachment for attachment in record.attachments if attachment.network_id != network.id)
            if left == record.attachments:
                raise Conflict(f"container {record.id} is not connected to network {network.name}")
            if network.driver == "host":
                raise Conflict("container cannot be disconnected from host network or connected to host network")
            return left

        await container.change_networks(plan)

    async def counters(self, container: Container) -> dict[str, Counters]:
        """What went over each interface of a container that runs, by its name in the guest."""
        return await self._networking.counters(container.record)

    def trace(self, reference: str) -> AsyncGenerator[bytes]:
        """What goes over a network from now on, as a pcap; raises `NotFound`, `Unavailable`, `InvalidRequest`."""
        network = self.get(reference)
        if network.driver == "null":
            raise InvalidRequest("network none has no traffic")
        return self._segments.of(network).trace()

    async def problem(self) -> str:
        """Why containers can be on no network on this host, in one sentence; "" when they can."""
        return await self._segments.problem(self.get(BRIDGE))
