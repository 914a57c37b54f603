"""One network's segment as the engine has it: started when it is needed, and again when it was lost.

What is to be on it is remembered here, with what was chosen (the host's ports) and what came later (taps): that is what
a segment is configured with, be it new, or one that has outlived an engine.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Protocol

from msgspec.structs import replace

from atoll.engine.services import Tasks
from atoll.errors import AgentFailed, AtollError, NotFound, Unavailable
from atoll.model.network import Counters, Endpoint, Network, PortBinding, SegmentSpec

log = logging.getLogger("atoll.engine")

_FIRST_DELAY_S, _LONGEST_DELAY_S = 0.1, 30.0
_GOODBYE_S = 2.0
_COUNTED_S = 0.3


class Link(Protocol):
    """A connection to a segment (`atoll.network.client`); one that is lost raises `AgentFailed`."""

    @property
    def is_connected(self) -> bool:
        """Whether the segment is there, as far as we have heard."""

    async def configure(self, spec: SegmentSpec, endpoints: Sequence[Endpoint]) -> None:
        """Make it all that is said, and nothing else."""

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Add or change an endpoint; its ports, those of the host chosen."""

    async def plug(self, endpoint_id: str, tap: str) -> None:
        """Connect an endpoint's tap."""

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint."""

    async def counters(self) -> dict[str, Counters]:
        """What went over each endpoint."""

    def trace(self) -> AsyncGenerator[bytes]:
        """What goes over the bridge, as a pcap."""

    async def stop(self) -> None:
        """End the segment."""

    async def close(self) -> None:
        """Hang up; the segment stays as long as VMs are on it."""

    async def wait_closed(self) -> str:
        """The end of the connection, and why."""


StartLink = Callable[[Path, str], Coroutine[object, object, Link]]


class Segment:
    """The segment of `network`; `start` connects to the one there is, or starts one; `describe` says what it is to be.

    Whatever is asked of it raises `Unavailable` when there is no segment and none can be started.
    """

    def __init__(
        self, network: Network, start: Callable[[], Coroutine[object, object, Link]],
        describe: Callable[[Network], SegmentSpec], tasks: Tasks,
    ) -> None:  # fmt: skip
        self._network = network
        self._start = start
        self._describe = describe
        self._tasks = tasks
        self._endpoints: dict[str, Endpoint] = {}
        self._link: asyncio.Future[Link] | None = None
        self._is_ended = False
        self._counters: dict[str, Counters] = {}
        self._counted_until_s = 0.0
        self._is_stale = False
        self._replaced: Link | None = None

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """What is on it, by the container's id."""
        return self._endpoints

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Add or change an endpoint; its ports with the host's. Raises `Conflict` when one of those is taken."""
        ports = await self._put(endpoint)
        known = self._endpoints.get(endpoint.id)
        tap = endpoint.tap or (known.tap if known is not None else "")
        self._endpoints[endpoint.id] = replace(endpoint, ports=ports, tap=tap)
        return ports

    async def _put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        try:
            return await (await self.link()).put(endpoint)
        except AgentFailed:
            return await (await self.link()).put(endpoint)

    async def plug(self, endpoint_id: str, tap: str) -> None:
        """Connect the endpoint's tap; raises `NotFound` when that, or the endpoint, is not there any more."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None:
            raise NotFound(f"container {endpoint_id[:12]} has left network {self._network.name}")
        self._endpoints[endpoint_id] = replace(endpoint, tap=tap)
        try:
            await (await self.link()).plug(endpoint_id, tap)
        except AgentFailed:
            await (await self.link()).plug(endpoint_id, tap)

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint, if there is such a one, also one whose `put` was called off."""
        self._endpoints.pop(endpoint_id, None)
        if self._link is not None:
            with suppress(AgentFailed):  # whatever comes after it is told of the others alone
                await (await asyncio.shield(self._link)).remove(endpoint_id)

    def expect(self, endpoint: Endpoint) -> None:
        """An endpoint that an earlier engine put: the segment is told when it is connected to."""
        self._endpoints[endpoint.id] = endpoint

    async def counters(self) -> dict[str, Counters]:
        """What went over each endpoint that has a tap, a moment ago: each container's statistics ask for all."""
        if monotonic() > self._counted_until_s:
            self._counters = await (await self.link()).counters()
            self._counted_until_s = monotonic() + _COUNTED_S
        return self._counters

    async def trace(self) -> AsyncGenerator[bytes]:
        """What goes over the network from now on."""
        pieces = (await self.link()).trace()
        try:
            async for piece in pieces:
                yield piece
        finally:
            await pieces.aclose()

    async def end(self) -> None:
        """End the segment: its network goes."""
        self._is_ended = True
        link, self._link = self._link, None
        if link is not None:
            with suppress(AtollError, TimeoutError):
                await (await asyncio.shield(link)).stop()

    async def close(self) -> None:
        """The engine ends: hang up. A segment that nobody is on ends."""
        self._is_ended = True
        if self._link is not None and self._link.done() and _is_good(self._link):
            link = self._link.result()
            if not self._endpoints:
                with suppress(AtollError, TimeoutError):
                    async with asyncio.timeout(_GOODBYE_S):
                        await link.stop()
            await link.close()

    def keeper_lost(self) -> None:
        """The keeper that its taps came from is gone: as soon as nobody is on it, it is to be made anew."""
        self._is_stale = True

    async def link(self) -> Link:
        """The connection, configured; made if there is none."""
        if self._is_ended:
            raise Unavailable(f"network {self._network.name} is no more, or the engine is about to end")
        if self._is_stale and not self._endpoints:
            await self._end_stale()
        if self._link is None or (self._link.done() and not _is_good(self._link)):
            self._link = self._tasks.begin(self._open(), f"start of network {self._network.name}")
        return await asyncio.shield(self._link)

    async def _end_stale(self) -> None:
        self._is_stale = False
        link, self._link = self._link, None
        if link is not None:
            with suppress(AtollError, TimeoutError):
                self._replaced = await asyncio.shield(link)
                await self._replaced.stop()

    async def _open(self) -> Link:
        link = await self._start()
        try:
            await self._configure(link)
        except BaseException:
            await link.close()
            raise
        self._tasks.spawn(self._watch(link), f"watch over network {self._network.name}")
        return link

    async def _configure(self, link: Link) -> None:
        spec = self._describe(self._network)
        try:
            await link.configure(spec, list(self._endpoints.values()))
        except AgentFailed:
            raise
        except AtollError as error:
            # Of one endpoint, or of all? Those that can be are what they were.
            log.warning("network %s: not everything is as it was: %s", self._network.name, error)
            endpoints = list(self._endpoints.values())
            await link.configure(spec, [replace(endpoint, ports=()) for endpoint in endpoints])
            for endpoint in endpoints:
                if endpoint.ports and endpoint.id in self._endpoints:
                    await self._put_again(link, endpoint)

    async def _put_again(self, link: Link, endpoint: Endpoint) -> None:
        try:
            await link.put(endpoint)
        except AgentFailed:
            raise
        except AtollError as error:
            log.warning("container %s has lost its published ports: %s", endpoint.id[:12], error)

    async def _watch(self, link: Link) -> None:
        """Have a segment that was killed come back."""
        reason = await link.wait_closed()
        delay_s = _FIRST_DELAY_S
        if self._is_ended or link is self._replaced:
            return
        log.warning("the segment of network %s is lost (%s): starting it again", self._network.name, reason)
        while not self._is_ended:
            try:
                await self.link()
                return
            except AtollError as error:
                log.warning("network %s is down: %s", self._network.name, error)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, _LONGEST_DELAY_S)


def _is_good(link: "asyncio.Future[Link]") -> bool:
    return not link.cancelled() and link.exception() is None and link.result().is_connected
