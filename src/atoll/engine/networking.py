"""What a container's start, life and end mean on its networks: endpoints on segments, and names for its neighbours.

A container *joins* its networks while its VM is launched (ports are bound then, so that a start fails before anything
has run), is *plugged* in when its VM's taps are known, and *leaves* at its end: nobody hears of it any more, and its
ports are free. Its endpoints are removed when its VM is gone, for until then they would have to be unplugged, which
takes longer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from atoll.engine.guest_networks import (
    dns_names,
    host_gateway,
    interface_name,
    interfaces,
    resolvers,
    wanted_ports,
    way_out,
)
from atoll.engine.record import ContainerRecord
from atoll.engine.runtimes import Runtime
from atoll.engine.segment import Segment
from atoll.engine.segments import Segments
from atoll.engine.services import Tasks
from atoll.engine.topology import Topology
from atoll.errors import AgentFailed, AtollError, Conflict, NotFound, Unavailable
from atoll.guest.identity_files import network_files
from atoll.model.network import Attachment, Counters, Endpoint, PortBinding
from atoll.model.runtime import RuntimeState
from atoll.vmm.slots import NETWORKS

log = logging.getLogger("atoll.engine")

T = TypeVar("T")

_REASON_S = 1.0


@dataclass
class _Leaving:
    """A container that has ended, and whose VM may still be there."""

    record: ContainerRecord
    is_gone: asyncio.Event = field(default_factory=asyncio.Event)


class Networking:
    """The endpoints of all containers that run, or are about to."""

    def __init__(self, topology: Topology, segments: Segments, tasks: Tasks) -> None:
        self._topology = topology
        self._segments = segments
        self._tasks = tasks
        self._joined: dict[str, ContainerRecord] = {}
        self._leaving: dict[str, _Leaving] = {}

    @asynccontextmanager
    async def joining(self, record: ContainerRecord) -> AsyncIterator[Awaitable[tuple[PortBinding, ...]]]:
        """A container joins its networks while the block launches its VM, and leaves them when the block fails.

        What is awaited in the block are its ports with those of the host, when it is on all its networks. That raises
        `Conflict` when a port is taken, `Unavailable` when there can be no network.
        """
        joining = asyncio.ensure_future(self._join(record))
        try:
            yield joining
        except BaseException:
            await _call_off(joining)
            if (joined := self._joined.pop(record.id, None)) is not None:
                await self._remove(joined, joined.attachments)
                self._note_leave(joined)
            raise

    async def _join(self, record: ContainerRecord) -> tuple[PortBinding, ...]:
        for leaving in [leaving for leaving in self._leaving.values() if _have_in_common(leaving.record, record)]:
            await leaving.is_gone.wait()
        if record.attachments:
            await self._segments.keeper()
        self._joined[record.id] = record
        ports = await self._put(record, record.attachments)
        self._publish("connect", record, record.attachments)
        self._tell_neighbours(record, record.attachments)
        return ports

    async def start(self, record: ContainerRecord, runtime: Runtime) -> RuntimeState:
        """Start a container that has joined its networks; its process begins when its VM's devices are connected.

        Raises what the start does, `NotFound` or `Unavailable`; the runtime is killed when it was not its fault.
        """
        if not record.attachments:
            return await runtime.start()
        starting = asyncio.ensure_future(runtime.start(waits=True))
        try:
            taps = (await runtime.state()).taps
            await self._plug(record, record.attachments, taps)
            await runtime.proceed()
            return await starting
        except (NotFound, AgentFailed):
            # A VM that ends takes its taps along: why it does is the better reason.
            await asyncio.wait([starting], timeout=_REASON_S)
            if starting.done():
                starting.result()
            raise
        finally:
            if not starting.done():
                runtime.kill()
                await _call_off(starting)

    async def leave(self, record: ContainerRecord) -> None:
        """A container that runs has ended: its names and ports are nobody's now."""
        joined = self._joined.pop(record.id, None)
        if joined is None:
            return
        self._leaving[record.id] = _Leaving(joined)
        for attachment in joined.attachments:
            segment = self._segment(attachment)
            if (known := segment.endpoints.get(record.id)) is not None:
                try:
                    await segment.put(replace(known, names=(), foreign_names={}, ports=()))
                except AtollError:
                    # Its tap has gone already, with its VM.
                    await self._remove(joined, [attachment])
        self._note_leave(joined)

    async def vm_gone(self, container_id: str) -> None:
        """The VM of a container that has left is gone: so are its endpoints."""
        if (leaving := self._leaving.get(container_id)) is not None:
            try:
                await self._remove(leaving.record, leaving.record.attachments)
            finally:
                del self._leaving[container_id]
                leaving.is_gone.set()

    def _note_leave(self, record: ContainerRecord) -> None:
        self._publish("disconnect", record, record.attachments)
        self._tell_neighbours(record, record.attachments)

    async def rename(self, record: ContainerRecord) -> None:
        """A container that may run is called otherwise now."""
        if record.id in self._joined:
            await self._change(record)

    async def rewire(self, record: ContainerRecord, runtime: Runtime) -> tuple[PortBinding, ...]:
        """Have a container that runs on the networks of its record, no longer on those it was on before; its ports.

        Raises as `joining`, and what the guest says; it is where it was then.
        """
        before = self._joined.get(record.id)
        if before is None:
            raise Conflict(f"container {record.id} is not running")
        taps = (await runtime.state()).taps
        ports = await self._change(record)
        try:
            new = [attachment for attachment in record.attachments if attachment not in before.attachments]
            await self._plug(record, new, taps)
            await self._tell_guest(before, record, runtime)
        except BaseException:
            if record.id in self._joined:
                await self._change(replace(before, published=record.published))
                stay = [attachment for attachment in before.attachments if attachment not in record.attachments]
                await self._plug(before, stay, taps)
            raise
        return ports

    async def _change(self, record: ContainerRecord) -> tuple[PortBinding, ...]:
        """Put the record that is now in the place of the one that had joined; nothing has changed when it raises."""
        before = self._joined[record.id]
        gone = [attachment for attachment in before.attachments if attachment not in record.attachments]
        new = [attachment for attachment in record.attachments if attachment not in before.attachments]
        stay = [attachment for attachment in record.attachments if attachment not in new]
        self._joined[record.id] = record
        try:
            await self._remove(before, gone)
            # Ports may move from a network that stays to a new one.
            ports = await self._put(record, stay)
            ports += await self._put(record, new)
        except BaseException:
            if record.id in self._joined:
                self._joined[record.id] = before
                await self._remove(record, new)
                await self._put(replace(before, published=record.published), before.attachments)
            raise
        self._publish("disconnect", before, gone)
        self._publish("connect", record, new)
        self._tell_neighbours(record, (*record.attachments, *gone))
        return ports

    async def _plug(self, record: ContainerRecord, attachments: Iterable[Attachment], taps: Sequence[str]) -> None:
        wanted = list(attachments)
        if wanted and not taps:
            raise Unavailable(
                f"the VM of container {record.name} has no network devices: see 'atoll system status' for the reason, "
                "or use --network none"
            )
        plugs = (self._segment(attachment).plug(record.id, taps[attachment.slot]) for attachment in wanted)
        _raise_first(await asyncio.gather(*plugs, return_exceptions=True))

    async def _tell_guest(self, before: ContainerRecord, record: ContainerRecord, runtime: Runtime) -> None:
        """Interfaces that are gone, or have other routes now, are taken away; those that are new or so, given."""
        network_of = self._topology.get
        old = {interface.pci: interface for interface in interfaces(before, network_of)}
        new = {interface.pci: interface for interface in interfaces(record, network_of)}
        files = network_files(
            record.config, tuple(new.values()), resolvers(record, network_of), host_gateway(record, network_of)
        )
        for pci, interface in old.items():
            if new.get(pci) != interface:
                await runtime.disconnect_network(pci, files)
        for pci, interface in new.items():
            if old.get(pci) != interface:
                await runtime.connect_network(interface, files)

    async def repair(self, record: ContainerRecord, runtime: Runtime) -> None:
        """Have the guest on the networks of its record, whatever it is on; raises what the guest says."""
        for pci in NETWORKS:
            with suppress(NotFound):
                await runtime.disconnect_network(pci, {})
        nowhere = replace(record, attachments=())
        await self._tell_guest(nowhere, record, runtime)

    def adopt(self, record: ContainerRecord, taps: Sequence[str]) -> None:
        """A container runs that an earlier engine has started: its segments are told of it when they are there."""
        self._joined[record.id] = record
        for attachment in record.attachments:
            tap = taps[attachment.slot] if taps else ""
            self._segment(attachment).expect(replace(self._endpoint(record, attachment), tap=tap))

    def all_adopted(self) -> None:
        """Everybody is known: those on several networks learn the names of their neighbours there."""
        for record in self._joined.values():
            for attachment in record.attachments if len(record.attachments) > 1 else ():
                segment = self._segment(attachment)
                known = segment.endpoints[record.id]
                segment.expect(replace(known, foreign_names=self._foreign_names(record, attachment)))

    async def counters(self, record: ContainerRecord) -> dict[str, Counters]:
        """What went over each interface of a container that runs, by its name in the guest."""
        attachments = record.attachments if record.id in self._joined else ()
        all_counters = await asyncio.gather(*(self._segment(attachment).counters() for attachment in attachments))
        return {
            interface_name(attachment): counters[record.id]
            for attachment, counters in zip(attachments, all_counters, strict=True)
            if record.id in counters
        }

    # --- endpoints

    def _segment(self, attachment: Attachment) -> Segment:
        return self._segments.of(self._topology.get(attachment.network_id))

    def _endpoint(self, record: ContainerRecord, attachment: Attachment) -> Endpoint:
        ports = record.published or wanted_ports(record.config)
        return Endpoint(
            id=record.id,
            mac=attachment.mac,
            ipv4=attachment.ipv4,
            ipv6=attachment.ipv6,
            names=dns_names(record, attachment),
            foreign_names=self._foreign_names(record, attachment),
            resolvers=record.config.dns,
            ports=ports if attachment == way_out(record, self._topology.get) else (),
            egress=record.config.egress,
        )

    async def _put(self, record: ContainerRecord, attachments: Iterable[Attachment]) -> tuple[PortBinding, ...]:
        puts = (self._segment(attachment).put(self._endpoint(record, attachment)) for attachment in attachments)
        bound = await asyncio.gather(*puts, return_exceptions=True)
        _raise_first(bound)
        return tuple(port for ports in bound if not isinstance(ports, BaseException) for port in ports)

    async def _remove(self, record: ContainerRecord, attachments: Iterable[Attachment]) -> None:
        ends = (self._segment(attachment).remove(record.id) for attachment in attachments)
        for end in await asyncio.gather(*ends, return_exceptions=True):
            if isinstance(end, AtollError):
                log.warning("container %s could not leave a network as it should: %s", record.name, end)
            elif isinstance(end, BaseException):
                raise end

    def _publish(self, action: str, record: ContainerRecord, attachments: Iterable[Attachment]) -> None:
        for attachment in attachments:
            self._topology.publish(action, self._topology.get(attachment.network_id), container=record.id)

    # --- names

    def _foreign_names(self, record: ContainerRecord, here: Attachment) -> dict[str, tuple[str, ...]]:
        """Who is called what on the container's other networks: only it may look that up here."""
        names: dict[str, tuple[str, ...]] = {}
        for attachment in record.attachments:
            if attachment != here:
                for endpoint in self._segment(attachment).endpoints.values():
                    if endpoint.id != record.id:
                        addresses = tuple(address for address in (endpoint.ipv4, endpoint.ipv6) if address)
                        for name in endpoint.names:
                            names[name] = (*names.get(name, ()), *addresses)
        return names

    def _tell_neighbours(self, record: ContainerRecord, attachments: Collection[Attachment]) -> None:
        """Those who are on several networks, one of them the container's, may call it by other names now."""
        shared = {attachment.network_id for attachment in attachments}
        for other in self._joined.values():
            is_neighbour = any(attachment.network_id in shared for attachment in other.attachments)
            if other.id != record.id and len(other.attachments) > 1 and is_neighbour:
                self._tasks.spawn(self._update_names(other.id), f"update of names for container {other.name}")

    async def _update_names(self, container_id: str) -> None:
        record = self._joined.get(container_id)
        if record is None:
            return
        for attachment in record.attachments:
            segment = self._segment(attachment)
            known = segment.endpoints.get(container_id)
            if known is None or record is not self._joined.get(container_id):
                return
            names = self._foreign_names(record, attachment)
            if names != known.foreign_names:
                await segment.put(replace(known, foreign_names=names))


def _have_in_common(one: ContainerRecord, other: ContainerRecord) -> bool:
    """Whether an address of one container is the other's now."""
    return any(
        here.network_id == there.network_id
        and (here.mac == there.mac or here.ipv4 == there.ipv4 or (here.ipv6 and here.ipv6 == there.ipv6))
        for here in one.attachments
        for there in other.attachments
    )


async def _call_off(work: "asyncio.Future[T]") -> None:
    """Cancel work whose outcome is of no interest any more, and wait for its end."""
    work.cancel()
    await asyncio.wait([work])
    if not work.cancelled():
        work.exception()


def _raise_first(results: Iterable[object]) -> None:
    for result in results:
        if isinstance(result, BaseException):
            raise result
