"""The engine's networks: the topology, and what becomes of it in segments and running containers."""

from collections.abc import AsyncGenerator, Callable

from atoll.engine.container import Container
from atoll.engine.network import PREDEFINED, NetworkRequest
from atoll.engine.registry import Registry
from atoll.engine.topology import Topology
from atoll.errors import NotFound, Unavailable
from atoll.model.network import Attachment, Counters, Network, NetworkWish

__all__ = ["PREDEFINED", "NetworkRequest", "Networks"]


class Networks:
    """What the API serves of networks."""

    def __init__(self, topology: Topology, containers: Registry[Container]) -> None:
        self._topology = topology
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
        self._topology.remove(self.get(reference))

    async def prune(self, keep: Callable[[Network], bool]) -> list[Network]:
        """Remove the networks that no container is on, without those that `keep` wants; which they were."""
        pruned = []
        for network in self.all():
            if network.name not in PREDEFINED and not self._topology.members(network.id) and not keep(network):
                await self.remove(network.id)
                pruned.append(network)
        return pruned

    async def connect(self, reference: str, container: Container, wish: NetworkWish) -> None:
        """Put a container on one more network, at once if it runs; raises `NotFound`, `InvalidRequest`, `Conflict`."""
        raise NotImplementedError

    async def disconnect(self, reference: str, container: Container, force: bool) -> None:
        """Take a container off a network; raises `NotFound`, and `Conflict` when it is not on it."""
        raise NotImplementedError

    async def counters(self, container: Container) -> dict[str, Counters]:
        """What went over each interface of a container that runs."""
        raise NotFound(f"container {container.name} has no network")

    def trace(self, reference: str) -> AsyncGenerator[bytes]:
        """What goes over a network, as a pcap; raises `NotFound`, `Unavailable`."""
        raise Unavailable(f"network {self.get(reference).name} has no segment")
