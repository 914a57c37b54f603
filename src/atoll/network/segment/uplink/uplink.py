"""The way out, inside the segment: asked of the outlet, configured, and made again when it was lost.

On the network `host` the gateway's addresses lead to the host's loopback: pasta takes what is for its own gateways
there, so what a container sends to the segment's is directed to those; names (port 53) are still answered here.
"""

import asyncio
import logging
from contextlib import closing, suppress

from atoll.errors import AtollError
from atoll.model.network import Endpoint, SegmentSpec
from atoll.network.routes import Routes
from atoll.network.segment.bridge import BRIDGE
from atoll.network.segment.nftables import Nftables
from atoll.network.segment.outlet import Outlet
from atoll.network.segment.uplink.link import INTERFACE, Link, Wish

_LOG = logging.getLogger(__name__)
_CHECK_S = 5
_TABLE = "atoll_to_host"


class Uplink:
    """The part of a segment that leads out."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._watcher: asyncio.Task[None] | None = None
        self._is_fresh = True
        self._directed = ""

    async def configure(self, spec: SegmentSpec) -> None:
        """Have the way out that `spec` wants.

        A host that has no way out itself, or not the means, is no reason to start no container: that is logged, and
        tried again every few seconds.
        """
        await self._stop_watching()
        if self._is_fresh:
            # What a segment that was killed has left behind; its pasta ends with it.
            _delete_interface()
            self._is_fresh = False
        if spec.uplink == "none":
            await self._outlet.uplink(None)
            self._direct(None, spec)
            return
        wish = Wish(kind=spec.uplink, name=spec.network.id[:12], to_host=spec.to_host)
        words = await self._make(wish, spec, "")
        self._watcher = asyncio.create_task(self._watch(wish, spec, words))

    async def put(self, endpoint: Endpoint) -> None:
        """A container changes nothing here."""

    async def remove(self, endpoint_id: str) -> None:
        """A container changes nothing here."""

    async def close(self) -> None:
        """Remove the way out, also when the outlet has ended."""
        await self._stop_watching()
        with suppress(AtollError):
            await self._outlet.uplink(None)
        _delete_interface()

    async def _make(self, wish: Wish, spec: SegmentSpec, said: str) -> str:
        """Have the way out; why that failed, which is logged unless it was `said`."""
        try:
            link = await self._outlet.uplink(wish)
            if link is not None and not link.configured:
                _configure(link)
            self._direct(link, spec)
        except (AtollError, OSError, KeyError) as error:
            if str(error) != said:
                _LOG.warning("network %s has no way out now: %s", spec.network.name, error)
            return str(error)
        return ""

    async def _watch(self, wish: Wish, spec: SegmentSpec, words: str) -> None:
        while True:
            await asyncio.sleep(_CHECK_S)
            words = await self._make(wish, spec, words)

    def _direct(self, link: Link | None, spec: SegmentSpec) -> None:
        """Lead what is for the network's gateway to the way out's, unless it is for the resolver."""
        rules = to_host_ruleset(link, spec)
        if rules != self._directed:
            nftables = Nftables()
            try:
                nftables.run(rules)
            finally:
                nftables.close()
            self._directed = rules

    async def _stop_watching(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            with suppress(asyncio.CancelledError):
                await self._watcher
            self._watcher = None


def _configure(link: Link) -> None:
    """Give the interface its addresses and routes; it may have them already."""
    with closing(Routes()) as routes:
        number = routes.links()[INTERFACE].number
        for address in filter(None, (link.ipv4, link.ipv6)):
            routes.add_address(number, address)
        routes.set_link(number, up=True)
        for gateway in filter(None, (link.gateway4, link.gateway6)):
            routes.add_default(number, gateway)


def _delete_interface() -> None:
    with closing(Routes()) as routes:
        routes.delete_named(INTERFACE)


def to_host_ruleset(link: Link | None, spec: SegmentSpec) -> str:
    """The table that leads to the host; one that is empty when nothing does."""
    rules = []
    if spec.to_host and link is not None:
        for family, subnet, gateway in (
            ("ip", spec.network.ipv4, link.gateway4),
            ("ip6", spec.network.ipv6, link.gateway6),
        ):
            if subnet is not None and gateway:
                rules.append(
                    f"iifname {BRIDGE} {family} daddr {subnet.gateway} meta l4proto {{ tcp, udp }} th dport != 53 "
                    f"dnat {family} to {gateway};"
                )
    chain = "chain prerouting { type nat hook prerouting priority dstnat; policy accept;\n" + "\n".join(rules) + "\n}"
    return f"add table inet {_TABLE}\ndelete table inet {_TABLE}\ntable inet {_TABLE} {{\n{chain}\n}}\n"
