"""A segment: what the engine wants of one network, carried out by parts in their order.

`put` asks the parts one after the other; when one refuses, those before it are put back to what they had. Requests
for one endpoint come one at a time, those for others pass by: ports are bound while a tap is moved.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from msgspec.structs import replace

from atoll.errors import AtollError, NotFound
from atoll.model.network import Counters, Endpoint, PortBinding, SegmentSpec
from atoll.network.segment.filter import Filter
from atoll.network.segment.links import Links
from atoll.network.segment.part import Part

_LOG = logging.getLogger(__name__)


class Segment:
    """One network: its devices, its filter, and whatever else is done for it (`others`)."""

    def __init__(
        self,
        links: Links,
        frame_filter: Filter,
        others: Sequence[Part],
        refused: Callable[[], dict[str, int]] = dict,
    ) -> None:
        """`refused` says how many packets of each endpoint were kept from going out."""
        self._links = links
        self._refused = refused
        self._filter = frame_filter
        # Devices before rules that may name them; but a tap that is put on the bridge is a filtered one.
        self._in_order: tuple[Part, ...] = (links, frame_filter, *others)
        self._parts: tuple[Part, ...] = (frame_filter, links, *others)
        self._endpoints: dict[str, Endpoint] = {}
        self._ports: dict[str, tuple[PortBinding, ...]] = {}
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._configuring = asyncio.Lock()

    async def configure(self, spec: SegmentSpec, endpoints: Sequence[Endpoint]) -> None:
        """Be what is said, whatever was here; endpoints that are not named are removed. Raises `AtollError`.

        An endpoint whose tap has gone is put without one: its VM has ended, and the engine will hear of that.
        """
        async with self._configuring:
            for part in self._in_order:
                await part.configure(spec)
            named = {endpoint.id for endpoint in endpoints}
            for endpoint_id in set(self._endpoints) - named:
                await self.remove(endpoint_id)
            for endpoint in endpoints:
                try:
                    await self.put(endpoint)
                except NotFound as error:
                    if not endpoint.tap:
                        raise
                    _LOG.warning("endpoint %s: %s", endpoint.id, error)
                    await self.put(replace(endpoint, tap=""))
            self._filter.drop_strangers()
            await self._links.drop_strangers()

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Add or change an endpoint; its ports with the host's ports chosen. Nothing has changed when it raises.

        A tap that the endpoint has stays when `endpoint` names none, unless its VM has ended.
        """
        async with self._turns[endpoint.id]:
            known = self._endpoints.get(endpoint.id)
            if not endpoint.tap and known is not None and self._links.has_tap(known.tap):
                endpoint = replace(endpoint, tap=known.tap)
            ports = await self._put(endpoint, self._parts)
            self._ports[endpoint.id] = ports or ()
            return self._ports[endpoint.id]

    async def plug(self, endpoint_id: str, tap: str) -> None:
        """Connect the endpoint's tap; raises `NotFound` when there is no such endpoint, or no such tap."""
        async with self._turns[endpoint_id]:
            endpoint = self._endpoints.get(endpoint_id)
            if endpoint is None:
                raise NotFound(f"endpoint {endpoint_id[:12]} is not on this network")
            await self._put(replace(endpoint, tap=tap), (self._filter, self._links))

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint; every part does what it can, and the first failure is raised then."""
        async with self._turns[endpoint_id]:
            self._endpoints.pop(endpoint_id, None)
            self._ports.pop(endpoint_id, None)
            await self._remove(endpoint_id, self._parts)
        self._turns.pop(endpoint_id, None)

    def counters(self) -> dict[str, Counters]:
        """What went over each endpoint that has a tap."""
        forged, refused = self._filter.forged(), self._refused()
        return {
            endpoint_id: replace(
                counters,
                forged=forged.get(endpoint_id, 0),
                sent_dropped=counters.sent_dropped + refused.get(endpoint_id, 0),
            )
            for endpoint_id, counters in self._links.counters().items()
        }

    def is_used(self) -> bool:
        """Whether a VM is on this network."""
        return self._links.has_taps()

    async def close(self) -> None:
        """End all parts, in the reverse of their order; the first failure is raised then."""
        async with AsyncExitStack() as stack:
            for part in self._parts:
                stack.push_async_callback(part.close)

    async def _put(self, endpoint: Endpoint, parts: Sequence[Part]) -> tuple[PortBinding, ...] | None:
        """Put to `parts`, all or none."""
        known = self._endpoints.get(endpoint.id)
        bound: tuple[PortBinding, ...] | None = None
        for index, part in enumerate(parts):
            try:
                bound = await part.put(endpoint) or bound
            except BaseException:
                await asyncio.shield(self._take_back(known, endpoint.id, parts[:index]))
                raise
        self._endpoints[endpoint.id] = endpoint
        return bound

    async def _take_back(self, known: Endpoint | None, endpoint_id: str, parts: Sequence[Part]) -> None:
        """Have `parts` as they were before a put that another part has refused."""
        try:
            if known is None:
                await self._remove(endpoint_id, parts)
            else:
                for part in parts:
                    await part.put(known)
        except AtollError as error:
            _LOG.warning("what was half done for endpoint %s stays: %s", endpoint_id, error)

    async def _remove(self, endpoint_id: str, parts: Sequence[Part]) -> None:
        async with AsyncExitStack() as stack:
            for part in parts:
                stack.push_async_callback(part.remove, endpoint_id)
