"""Segments without processes: networks whose ports and taps are in memory."""

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from msgspec.structs import replace

from atoll.errors import AgentFailed, AtollError, Conflict, NotFound, Unavailable
from atoll.model.network import Counters, Endpoint, Network, PortBinding, SegmentSpec
from atoll.network.keeper_client import Tap

FIRST_FREE_PORT = 32768


class MemorySegment:
    """What a segment's process is told; it is there until it is stopped or killed."""

    def __init__(self, host: "MemoryHost") -> None:
        self._host = host
        self.endpoints: dict[str, Endpoint] = {}
        self.spec: SegmentSpec | None = None
        self.link: MemoryLink | None = None

    def bind(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Ports at this host, each once."""
        others = {
            (port.host_port, port.protocol)
            for segment in self._host.segments.values()
            for other in segment.endpoints.values()
            if other.id != endpoint.id or segment is not self
            for port in other.ports
        } | self._host.foreign_ports
        bound = []
        for port in endpoint.ports:
            number = port.host_port
            while not number or (number, port.protocol) in others:
                if number == port.host_port and number:
                    raise Conflict(f"Bind for 0.0.0.0:{number} failed: port is already allocated")
                number = max(number, FIRST_FREE_PORT - 1) + 1
            others.add((number, port.protocol))
            bound.append(replace(port, host_port=number))
        return tuple(bound)


class MemoryLink:
    """A connection to one."""

    def __init__(self, host: "MemoryHost", segment: MemorySegment) -> None:
        self._host = host
        self._segment = segment
        self._closed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        segment.link = self

    @property
    def is_connected(self) -> bool:
        """Until either side has hung up."""
        return not self._closed.done()

    def lose(self) -> None:
        """The segment was killed, or has hung up."""
        if not self._closed.done():
            self._closed.set_result("it was lost")

    async def _ask(self) -> None:
        await self._host.may_answer.wait()
        if self._closed.done():
            raise AgentFailed("the network's segment is gone")
        if self._host.error is not None:
            raise self._host.error

    async def configure(self, spec: SegmentSpec, endpoints: Sequence[Endpoint]) -> None:
        """Be what is said."""
        await self._ask()
        self._segment.spec = spec
        named = {endpoint.id for endpoint in endpoints}
        for stranger in set(self._segment.endpoints) - named:
            del self._segment.endpoints[stranger]
        for endpoint in endpoints:
            await self.put(endpoint)

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Add or change."""
        await self._ask()
        known = self._segment.endpoints.get(endpoint.id)
        if known is not None and not endpoint.tap:
            endpoint = replace(endpoint, tap=known.tap)
        ports = self._segment.bind(endpoint)
        self._segment.endpoints[endpoint.id] = replace(endpoint, ports=ports)
        return ports

    async def plug(self, endpoint_id: str, tap: str) -> None:
        """Note the tap."""
        await self._host.may_plug.wait()
        await self._ask()
        if endpoint_id not in self._segment.endpoints or tap in self._host.lost_taps:
            raise NotFound(f"endpoint {endpoint_id[:12]} or tap {tap} is not there")
        self._segment.endpoints[endpoint_id] = replace(self._segment.endpoints[endpoint_id], tap=tap)

    async def remove(self, endpoint_id: str) -> None:
        """Forget."""
        await self._ask()
        self._segment.endpoints.pop(endpoint_id, None)

    async def counters(self) -> dict[str, Counters]:
        """One packet for each with a tap."""
        await self._ask()
        return {it.id: Counters(received_packets=1) for it in self._segment.endpoints.values() if it.tap}

    async def trace(self) -> AsyncGenerator[bytes]:
        """A little."""
        await self._ask()
        yield b"pcap"

    async def stop(self) -> None:
        """End it."""
        await self._ask()
        self._host.kill_segment(self._segment)

    async def close(self) -> None:
        """Hang up."""
        self.lose()

    async def wait_closed(self) -> str:
        """The end."""
        return await asyncio.shield(self._closed)


class MemoryKeeper:
    """A keeper that gives taps of `/dev/null`."""

    def __init__(self, host: "MemoryHost") -> None:
        self._host = host

    async def taps(self, count: int) -> list[Tap]:
        """So many, or why not."""
        if self._host.keeper_error is not None:
            raise self._host.keeper_error
        if self._host.keeper is not self:
            raise Unavailable("the keeper of networks does not answer")
        return [Tap(f"at{number}", os.open(os.devnull, os.O_RDWR)) for number in range(count)]

    async def forget(self, network_id: str) -> None:
        """Note it."""
        self._host.forgotten.append(network_id)

    async def leave(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do."""


class MemoryHost:
    """A host with a keeper and segments, which outlive the engine."""

    def __init__(self) -> None:
        self.segments: dict[str, MemorySegment] = {}
        self.foreign_ports: set[tuple[int, str]] = set()
        self.lost_taps: set[str] = set()
        self.forgotten: list[str] = []
        self.error: AtollError | None = None
        self.keeper_error: AtollError | None = None
        self.keeper: MemoryKeeper | None = None
        self.starts = self.keepers = 0
        self.may_answer, self.may_plug = asyncio.Event(), asyncio.Event()
        self.may_answer.set()
        self.may_plug.set()

    async def start(self, directory: Path, network_id: str) -> MemoryLink:
        """Connect to the segment, started if need be."""
        if network_id not in self.segments:
            self.segments[network_id] = MemorySegment(self)
            self.starts += 1
        return MemoryLink(self, self.segments[network_id])

    async def start_keeper(self, directory: Path) -> MemoryKeeper:
        """One that answers."""
        if self.keeper is None:
            self.keeper = MemoryKeeper(self)
            self.keepers += 1
        return self.keeper

    def kill_keeper(self) -> None:
        """`kill -9` of it."""
        self.keeper = None

    def describe(self, network: Network) -> SegmentSpec:
        """What a segment is told of its network."""
        return SegmentSpec(network=network, uplink="none")

    def kill_segment(self, segment: MemorySegment) -> None:
        """`kill -9`: the next one knows nothing."""
        self.segments = {key: other for key, other in self.segments.items() if other is not segment}
        if segment.link is not None:
            segment.link.lose()
