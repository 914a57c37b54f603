"""A segment's process: how it gets into its namespace, who may talk to it, and when it ends.

It outlives the engine that started it, and ends when it is told to, or when no VM is on its network and no engine is
connected. It keeps a connection to the keeper, which holds the namespace should this process be killed.
"""

import asyncio
import logging
import os
import signal
import socket
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from msgspec import Raw, Struct

import atoll
from atoll.channel import PROTOCOL, Connection, StreamStopped, address, decode
from atoll.errors import AtollError, InvalidRequest, Unavailable
from atoll.model.agent import Hello, ReadStream
from atoll.network import namespaces
from atoll.network.address import segment_socket
from atoll.network.keeper_client import Doors, Keeper
from atoll.network.launch import tell
from atoll.network.messages import AllCounters, Bound, Configure, Plug, Put, Remove
from atoll.network.netlink import Netlink
from atoll.network.segment.egress import Egress
from atoll.network.segment.filter import Filter
from atoll.network.segment.links import Links
from atoll.network.segment.nftables import Nftables
from atoll.network.segment.outlet import Outlet, fork_outlet
from atoll.network.segment.part import Part
from atoll.network.segment.ports import Ports
from atoll.network.segment.resolver import Resolver
from atoll.network.segment.segment import Segment
from atoll.network.segment.trace import trace
from atoll.network.segment.uplink.uplink import Uplink

_LOG = logging.getLogger(__name__)
_UNUSED_S = 5.0
_LAST_ANSWERS_S = 2.0


def _segment(links: Links, nftables: Nftables, outlet: Outlet) -> Segment:
    """A segment of all its parts, in this order: a way out has rules already when it comes."""
    egress = Egress(nftables)
    others: list[Part] = [egress, Uplink(outlet), Resolver(outlet, egress.learn), Ports(outlet)]
    return Segment(links, Filter(nftables), others, egress.refused)


def main(arguments: list[str]) -> int:
    """Be the segment of a network: `DIRECTORY NETWORK_ID`."""
    logging.basicConfig(format=f"%(asctime)s segment {arguments[1][:12]}: %(message)s")
    directory, network_id = Path(arguments[0]), arguments[1]
    try:
        outlet = fork_outlet()
        keeper, doors = asyncio.run(_ask_keeper(directory, network_id))
        namespaces.enter_user(doors.user)
        os.close(doors.user)
        namespaces.enter_network(doors.home)
        home = Netlink()
        namespaces.enter_network(doors.network)
        os.close(doors.network)
        links = Links(home, doors.home)
        asyncio.run(_serve(segment_socket(directory, network_id), links, outlet, keeper))
    except (OSError, AtollError) as error:
        _LOG.exception("it ends")
        tell(str(error))
        return 1
    return 0


async def _ask_keeper(directory: Path, network_id: str) -> tuple[Keeper, Doors]:
    keeper = await Keeper.connect(directory)
    return keeper, await keeper.enter(network_id)


async def _serve(path: Path, links: Links, outlet_socket: socket.socket, keeper: Keeper) -> None:
    async with AsyncExitStack() as stack:
        nftables = Nftables()
        stack.callback(nftables.close)
        outlet = Outlet(outlet_socket)
        stack.callback(outlet.close)
        segment = _segment(links, nftables, outlet)
        stack.push_async_callback(segment.close)
        async with asyncio.TaskGroup() as tasks:
            server = _Server(segment, tasks)
            watching = (
                tasks.create_task(server.end_with(outlet)),
                tasks.create_task(server.end_after(keeper)),
            )
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, server.ended.set)
            with address.listening(path) as listener:
                accepting = tasks.create_task(server.accept(listener))
                if tell():
                    await server.ended.wait()
                accepting.cancel()
                for task in watching:
                    task.cancel()
            await server.hang_up()


class _Server:
    """The connections to one segment."""

    def __init__(self, segment: Segment, tasks: asyncio.TaskGroup) -> None:
        self._segment = segment
        self._tasks = tasks
        self._connections: set[Connection] = set()
        self._unused: asyncio.TimerHandle | None = None
        self._is_orphan = False
        self.ended = asyncio.Event()
        self._note_use()

    async def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects and may."""
        async for client in address.clients(listener):
            self._tasks.create_task(self._serve(client))

    async def end_with(self, outlet: Outlet) -> None:
        """End when the outlet does: without it, there is no way out and no port."""
        await outlet.wait_closed()
        _LOG.warning("the process outside has ended")
        self.ended.set()

    async def end_after(self, keeper: Keeper) -> None:
        """Without the keeper there is no tap to be had, and no other segment finds these: serve the VMs there are."""
        await keeper.wait_closed()
        _LOG.warning("the keeper of networks has ended")
        self._is_orphan = True
        self._end_orphan()

    async def hang_up(self) -> None:
        """Close all connections, once what was asked is answered."""
        async with asyncio.TaskGroup() as goodbyes:
            for connection in self._connections:
                goodbyes.create_task(connection.finish(_LAST_ANSWERS_S))

    async def _serve(self, client: socket.socket) -> None:
        connection = Connection(client, "the engine")
        self._connections.add(connection)
        self._note_use()
        try:
            hello = Hello(protocol=PROTOCOL, agent_version=atoll.__version__, kernel=os.uname().release)
            await connection.serve(lambda method, raw: self._answer(connection, method, raw), hello)
        finally:
            self._connections.discard(connection)
            self._note_use()

    async def _answer(self, connection: Connection, method: str, parameters: Raw) -> Struct | None:
        match method:
            case "configure":
                asked = decode(parameters, Configure)
                await self._segment.configure(asked.spec, asked.endpoints)
            case "put":
                return Bound(ports=await self._segment.put(decode(parameters, Put).endpoint))
            case "plug":
                plug = decode(parameters, Plug)
                if self._is_orphan:
                    raise Unavailable(
                        "the keeper of networks was killed: stop the containers that are still on this network"
                    )
                await self._segment.plug(plug.endpoint_id, plug.tap)
            case "remove":
                await self._segment.remove(decode(parameters, Remove).endpoint_id)
            case "counters":
                return AllCounters(counters=self._segment.counters())
            case "trace":
                await _send_trace(connection, decode(parameters, ReadStream).stream)
            case "stop":
                self.ended.set()
            case _:
                raise InvalidRequest(f"a segment has no request '{method}'")
        return None

    def _note_use(self) -> None:
        """Without an engine, a segment stays for its VMs' sake only."""
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        if not self._connections:
            self._unused = asyncio.get_running_loop().call_later(_UNUSED_S, self._end_if_unused)

    def _end_orphan(self) -> None:
        if self._segment.is_used():
            asyncio.get_running_loop().call_later(_UNUSED_S, self._end_orphan)
        else:
            self.ended.set()

    def _end_if_unused(self) -> None:
        if self._segment.is_used():
            self._note_use()
        else:
            self.ended.set()


async def _send_trace(connection: Connection, stream: int) -> None:
    sink = connection.open_writer(stream)
    try:
        async with aclosing(trace()) as pieces:
            async for piece in pieces:
                await sink.write(piece)
    except StreamStopped:
        pass  # nobody reads any more
    except OSError as error:
        raise Unavailable(f"the network cannot be traced: {error.strerror}") from error
    finally:
        sink.end()
