"""The segments of all networks, and the keeper behind them (docs/networking.md).

They are processes that outlive the engine as runtimes do: the next engine connects to those that are there, and ends
those that no network needs.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Protocol

from atoll.engine.segment import Link, Segment, StartLink
from atoll.engine.services import Tasks
from atoll.errors import AtollError, Unavailable
from atoll.model.network import Network, SegmentSpec
from atoll.network.client import SegmentClient, start_segment
from atoll.network.keeper_client import Tap, start_keeper
from atoll.network.uplinks import choose_uplink, host_addresses, host_resolvers

log = logging.getLogger("atoll.engine")

_TRY_AGAIN_S = 10.0
_GOODBYE_S = 1.0


class Keeper(Protocol):
    """A connection to the keeper (`atoll.network.keeper_client`)."""

    async def taps(self, count: int) -> list[Tap]:
        """New taps; raises `Unavailable`."""

    async def forget(self, network_id: str) -> None:
        """Let the network's namespace go."""

    async def leave(self) -> None:
        """Have it end once nobody else needs it."""

    async def close(self) -> None:
        """Hang up."""


StartKeeper = Callable[[Path], Coroutine[object, object, Keeper]]


def describe(network: Network) -> SegmentSpec:
    """What a network's segment is to be on this host, now; raises `Unavailable` when it cannot lead out."""
    return SegmentSpec(
        network=network,
        uplink=choose_uplink(network),
        resolvers=host_resolvers(),
        host_addresses=host_addresses(),
        to_host=network.driver == "host",
    )


class Segments:
    """The segments of the networks of one engine; keeper and segments listen in `directory`."""

    def __init__(
        self,
        directory: Path,
        tasks: Tasks,
        start: StartLink = start_segment,
        start_keeper: StartKeeper = start_keeper,
        describe: Callable[[Network], SegmentSpec] = describe,
    ) -> None:
        """None is started yet. Whoever has taps is told by `keeper_lost` when they are of no use any more."""
        self.directory = directory
        self._tasks = tasks
        self._start = start
        self._start_keeper = start_keeper
        self._describe = describe
        self._segments: dict[str, Segment] = {}
        self._keeper: asyncio.Future[Keeper] | None = None
        self._tried_s = 0.0
        self._is_closed = False
        self.keeper_lost: list[Callable[[], None]] = []

    def of(self, network: Network) -> Segment:
        """A network's segment, whether it has been started or not."""
        if network.id not in self._segments:
            self._segments[network.id] = Segment(
                network, lambda: self._start_link(network.id), self._describe, self._tasks
            )
        return self._segments[network.id]

    async def keeper(self) -> Keeper:
        """The keeper, started if need be; raises `Unavailable` with the reason and what to do about it."""
        if self._is_closed:
            raise Unavailable("the engine is about to end")
        known = self._keeper
        if known is not None and known.done() and await self._is_lost(known) and self._keeper is known:
            self._keeper = None
        if self._keeper is None:
            self._keeper = self._tasks.begin(self._open_keeper(), "start of the keeper of networks")
            self._tried_s = monotonic()
        return await asyncio.shield(self._keeper)

    async def _is_lost(self, keeper: "asyncio.Future[Keeper]") -> bool:
        """Whether the keeper has ended, or could not be started a while ago."""
        if keeper.cancelled() or keeper.exception() is not None:
            return monotonic() - self._tried_s > _TRY_AGAIN_S
        try:
            await keeper.result().taps(0)
        except AtollError as error:
            if self._keeper is keeper:
                log.warning("the keeper of networks is lost, starting it again: %s", error)
                for segment in self._segments.values():
                    segment.keeper_lost()
                for tell in self.keeper_lost:
                    tell()
            return True
        return False

    async def directory_for_vms(self) -> str:
        """Where VMs find the keeper (`VmSpec.keeper`); "" when they have to do without."""
        try:
            await self.keeper()
        except AtollError:
            return ""
        return str(self.directory)

    async def problem(self, network: Network) -> str:
        """Why containers cannot be on `network` here, in one sentence; "" when they can."""
        try:
            await self.keeper()
            self._describe(network)
        except AtollError as error:
            return f"containers cannot be on a network: {error}; without one they run with --network none"
        return ""

    async def _open_keeper(self) -> Keeper:
        keeper = await self._start_keeper(self.directory)
        try:
            # Whether it can make any is only known from one.
            for tap in await keeper.taps(1):
                os.close(tap.fd)
        except BaseException:
            await keeper.close()
            raise
        return keeper

    async def _start_link(self, network_id: str) -> Link:
        await self.keeper()
        return await self._start(self.directory, network_id)

    async def open(self, networks: list[Network], first: Network) -> None:
        """Connect to the segments that there are, end those of no network, and have `first` ready before it is needed.

        Those with endpoints (`Segment.expect`) are started if they are not there.
        """
        try:
            await self.keeper()
        except AtollError as error:
            log.warning("containers can be on no network: %s", error)
            return
        known = {*(network.id[:12] for network in networks), "keeper"}
        for left in [left for left in self.directory.iterdir() if left.stem not in known]:
            if left.suffix == ".sock":
                await self._end_stray(left.stem)
            left.unlink(missing_ok=True)
        for network in networks:
            if network == first or self.of(network).endpoints:
                self._tasks.spawn(self._warm_up(network), f"start of network {network.name}")

    async def _warm_up(self, network: Network) -> None:
        try:
            await self.of(network).link()
        except AtollError as error:
            log.warning("network %s cannot be started: %s", network.name, error)

    async def _end_stray(self, short_id: str) -> None:
        log.info("ending the segment %s, which belongs to no network", short_id)
        with suppress(AtollError, TimeoutError):
            link = await SegmentClient.connect(self.directory, short_id)
            await link.stop()

    def _lock(self, short_id: str) -> Path:
        """What is locked while a segment is being started."""
        return self.directory / f"{short_id}.lock"

    async def end(self, network: Network) -> None:
        """End the segment of a network that is no more."""
        # First its namespace: a segment that is left over is found by its socket.
        with suppress(AtollError):
            await (await self.keeper()).forget(network.id)
        if (segment := self._segments.pop(network.id, None)) is not None:
            await segment.end()
        self._lock(network.id[:12]).unlink(missing_ok=True)

    async def close(self) -> None:
        """The engine ends: hang up. What VMs use goes on, the rest ends by itself."""
        self._is_closed = True
        await asyncio.gather(*(segment.close() for segment in self._segments.values()))
        if self._keeper is not None and self._keeper.done() and not self._keeper.cancelled():
            with suppress(AtollError):
                await _part_from(self._keeper.result())


async def _part_from(keeper: Keeper) -> None:
    with suppress(AtollError, TimeoutError):
        async with asyncio.timeout(_GOODBYE_S):
            await keeper.leave()
    await keeper.close()
