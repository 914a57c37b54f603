"""The engine's side of a segment: its requests as methods.

A segment outlives its connections. One that is lost raises `AgentFailed` (a `VmFailed`) in everybody who uses it;
`start_segment` and `configure` then put things right, also when the segment was killed.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

from atoll.channel import Connection, address
from atoll.errors import AgentFailed, AtollError, Unavailable
from atoll.model.agent import ReadStream
from atoll.model.network import Counters, Endpoint, PortBinding, SegmentSpec
from atoll.network.address import segment_socket
from atoll.network.keeper_client import start_keeper
from atoll.network.launch import launch, only_one
from atoll.network.messages import AllCounters, Bound, Configure, Plug, Put, Remove

_HELLO_S = 10.0
_SOON_S = 30.0
# It may start the way out.
_CONFIGURE_S = 60.0
_START_DEADLINE_S = 20.0


class SegmentClient:
    """A connection to the segment of one network; made by `connect` or `start_segment`, ended by `close`."""

    def __init__(self, connection: Connection, pid: int) -> None:
        self._connection = connection
        self.pid = pid

    @classmethod
    async def connect(cls, directory: Path, network_id: str) -> "SegmentClient":
        """Connect to the segment that runs; raises `Unavailable` when none does, or it does not answer."""
        try:
            sock = address.connect(segment_socket(directory, network_id))
        except OSError as error:
            raise Unavailable(f"the network {network_id[:12]} has no segment: {error.strerror}") from error
        client = cls(Connection(sock, "the network's segment"), address.peer_pid(sock))
        try:
            await client._connection.greet(_HELLO_S)
        except (TimeoutError, AgentFailed) as error:
            raise Unavailable(
                f"the segment of network {network_id[:12]} (process {client.pid}) does not answer"
            ) from error
        return client

    async def close(self) -> None:
        """Hang up; the segment goes on for as long as a VM is on its network."""
        self._connection.close("the engine hung up")

    async def wait_closed(self) -> str:
        """Wait for the end of the connection, whoever ended it; the reason."""
        return await self._connection.wait_closed()

    @property
    def is_connected(self) -> bool:
        """Whether the segment is there, as far as we have heard."""
        return not self._connection.is_closed

    async def configure(self, spec: SegmentSpec, endpoints: Sequence[Endpoint]) -> None:
        """Make the segment all that is said, and nothing else: endpoints that are not named are removed."""
        await self._connection.call("configure", Configure(spec=spec, endpoints=tuple(endpoints)), None, _CONFIGURE_S)

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Add or change an endpoint; its ports with the host's ports chosen. Raises `Conflict` when one is taken.

        Nothing has changed when it raises.
        """
        return (await self._connection.call("put", Put(endpoint=endpoint), Bound, _SOON_S)).ports

    async def plug(self, endpoint_id: str, tap: str) -> None:
        """Connect the endpoint's tap, which is in the keeper's home; raises `NotFound` when it is not."""
        await self._connection.call("plug", Plug(endpoint_id=endpoint_id, tap=tap), None, _SOON_S)

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint, if there is such a one; its tap, if still there, goes back to the keeper's home."""
        await self._connection.call("remove", Remove(endpoint_id=endpoint_id), None, _SOON_S)

    async def counters(self) -> dict[str, Counters]:
        """What went over each endpoint that has a tap, by its id."""
        return (await self._connection.call("counters", None, AllCounters, _SOON_S)).counters

    async def trace(self) -> AsyncGenerator[bytes]:
        """What goes over the bridge from now on, as a pcap file; whoever has enough closes the generator."""
        reader = self._connection.open_reader()
        work = asyncio.ensure_future(self._connection.call("trace", ReadStream(stream=reader.stream), None, None))
        # A request that is refused brings nothing, not even an end.
        work.add_done_callback(lambda work: reader.stop() if work.cancelled() or work.exception() else None)
        try:
            async for data in reader:
                yield data
            await work
        finally:
            reader.stop()
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def stop(self) -> None:
        """End the segment, and wait for that: its network goes. `Keeper.forget` then lets the namespace go."""
        with suppress(AtollError):
            await self._connection.call("stop", None, None, _SOON_S)
        async with asyncio.timeout(_SOON_S):
            await self._connection.wait_closed()


async def start_segment(directory: Path, network_id: str) -> SegmentClient:
    """Connect to the network's segment, and start it first when there is none; raises `Unavailable`."""
    with suppress(Unavailable):
        return await SegmentClient.connect(directory, network_id)
    async with only_one(directory / f"{network_id[:12]}.lock"):
        with suppress(Unavailable):
            return await SegmentClient.connect(directory, network_id)
        async with await start_keeper(directory) as keeper:
            await keeper.namespace(network_id)
            command = [sys.executable, "-m", "atoll.network.segment", str(directory), network_id]
            await launch(command, f"the segment of network {network_id[:12]}", _START_DEADLINE_S)
        return await SegmentClient.connect(directory, network_id)
