"""What endpoints may send: the part of a segment that keeps `ruleset.py` in the kernel, and reads its counters."""

from atoll.model.network import Endpoint, Network, SegmentSpec
from atoll.network.segment import ruleset
from atoll.network.segment.nftables import Nftables


class Filter:
    """Owns the table `bridge atoll`; it outlives this process, as do its counters."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables
        self._network: Network | None = None
        self._endpoints: dict[str, Endpoint] = {}

    async def configure(self, spec: SegmentSpec) -> None:
        """Have the table; what is of taps stays. Raises `VmFailed`."""
        if spec.network != self._network:
            self._nftables.run(ruleset.table(spec.network))
            self._network = spec.network

    async def put(self, endpoint: Endpoint) -> None:
        """From the endpoint's tap, let its addresses through; an endpoint without a tap sends nothing."""
        known = self._endpoints.get(endpoint.id)
        commands = ruleset.added(endpoint) if endpoint.tap else ""
        if known is not None and known.tap and known.tap != endpoint.tap:
            commands = ruleset.removed(known.tap) + commands
        if commands:
            self._nftables.run(commands)
        self._endpoints[endpoint.id] = endpoint

    async def remove(self, endpoint_id: str) -> None:
        """Let nothing of the endpoint through any more."""
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is not None and endpoint.tap:
            self._nftables.run(ruleset.removed(endpoint.tap))
        self._endpoints.pop(endpoint_id, None)

    def drop_strangers(self) -> None:
        """Forget taps that no endpoint has: those of endpoints that went while we were dead."""
        known = {endpoint.tap for endpoint in self._endpoints.values()}
        strangers = [tap for tap in self._forged() if tap not in known]
        if strangers:
            self._nftables.run("".join(map(ruleset.removed, strangers)))

    async def close(self) -> None:
        """Nothing: the table goes with the namespace."""

    def forged(self) -> dict[str, int]:
        """How many frames of each endpoint were dropped for bearing what is not its own."""
        by_tap = self._forged()
        return {endpoint.id: by_tap.get(endpoint.tap, 0) for endpoint in self._endpoints.values()}

    def _forged(self) -> dict[str, int]:
        listed = self._nftables.listing(f"list counters table {ruleset.TABLE}")
        counters = [found["counter"] for found in listed if "counter" in found]
        return {
            tap: int(counter["packets"]) for counter in counters if (tap := ruleset.tap_of_counter(counter["name"]))
        }
