"""The way out of a network: what each endpoint may send through the uplink, and in whose name it goes.

The table is `egress_rules`; here is who is in it. An endpoint with a list reaches, beside the networks that it names,
the addresses that the resolver has just answered for its domains (`learn`). Such an address may serve other domains
as well: the list is a fence for programs that behave unexpectedly, not a proof of what a TLS connection says.
"""

import logging
import time
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from atoll.errors import VmFailed
from atoll.model.network import Endpoint, SegmentSpec
from atoll.network.segment import egress_rules
from atoll.network.segment.nftables import Nftables

_logger = logging.getLogger(__name__)

# A program may connect some time after it has asked, whatever the answer's own time.
_LEAST_LIFETIME_S = 300
_MOST_LIFETIME_S = 86_400
_SLACK_S = 60

# Refusals are answers, and the kernel answers one a second otherwise.
_UNHURRIED = ("ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit")


class Egress:
    """The part of a segment that owns the table `egress` of its namespace."""

    def __init__(self, nftables: Nftables) -> None:
        self._nftables = nftables
        self._spec: SegmentSpec | None = None
        self._endpoints: dict[str, Endpoint] = {}
        self._learnt: dict[str, dict[str, float]] = {}

    async def configure(self, spec: SegmentSpec) -> None:
        """Make the table as `spec` has it; the endpoints that are there stay. Raises `VmFailed`."""
        if spec == self._spec:
            return
        if self._spec is None:
            _answer_quickly()
        endpoints = (egress_rules.added(endpoint, spec) for endpoint in self._endpoints.values())
        self._nftables.run(egress_rules.table(spec) + "".join(endpoints))
        self._spec = spec
        self._learnt.clear()

    async def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or change its policy, which holds for its open connections as well. Raises `VmFailed`."""
        known = self._endpoints.get(endpoint.id)
        if known is not None and egress_rules.mark(known) == egress_rules.mark(endpoint):
            return
        commands = "" if known is None else egress_rules.removed(known, self._configured)
        self._nftables.run(commands + egress_rules.added(endpoint, self._configured))
        self._endpoints[endpoint.id] = endpoint
        self._learnt.pop(endpoint.id, None)

    async def remove(self, endpoint_id: str) -> None:
        """An endpoint goes, and its connections with it; one that is not there has gone."""
        if (known := self._endpoints.get(endpoint_id)) is not None:
            self._nftables.run(egress_rules.removed(known, self._configured))
            del self._endpoints[endpoint_id]
            self._learnt.pop(endpoint_id, None)

    async def close(self) -> None:
        """The table stays while the namespace does: connections outlive this process."""

    def learn(self, endpoint_id: str, addresses: Mapping[str, int]) -> None:
        """Let an endpoint with a list reach `addresses`, each for its time to live in seconds, and at least 5 minutes.

        What can only be on this host or link is not a domain's to name.
        """
        endpoint = self._endpoints.get(endpoint_id)
        if endpoint is None or endpoint.egress.mode != "listed" or self._configured.uplink == "none":
            return
        now = time.monotonic()
        known = self._learnt.get(endpoint_id, {})
        ends = {
            address: now + min(max(ttl_s, _LEAST_LIFETIME_S), _MOST_LIFETIME_S) for address, ttl_s in addresses.items()
        }
        # One that is asked for often is written once in a while.
        fresh = {
            address: end
            for address, end in ends.items()
            if _is_elsewhere(address) and known.get(address, 0.0) < end - _SLACK_S
        }
        try:
            if fresh:
                self._nftables.run(
                    "".join(egress_rules.learnt(endpoint, address, round(end - now)) for address, end in fresh.items())
                )
                self._learnt[endpoint_id] = {address: end for address, end in known.items() if end > now} | fresh
        except VmFailed as error:
            # Its set is full: what it has learnt serves on, and ends by and by.
            _logger.warning("the endpoint %s learns no more addresses now: %s", endpoint_id[:12], error)

    def refused(self) -> dict[str, int]:
        """How many packets of each endpoint were refused, by its id."""
        counters = (
            entry.get("counter") for entry in self._nftables.listing(f"list counters table {egress_rules.TABLE}")
        )
        packets = {counter["name"]: int(counter["packets"]) for counter in counters if counter is not None}
        return {name: packets.get(f"refused_{name[:12]}", 0) for name in self._endpoints}

    @property
    def _configured(self) -> SegmentSpec:
        if self._spec is None:
            raise VmFailed("a segment has no endpoints before it is configured")
        return self._spec


def _is_elsewhere(text: str) -> bool:
    address = ip_address(text)
    if address.version == 6 and address.ipv4_mapped is not None:
        return False
    return not (address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified)


def _answer_quickly() -> None:
    for name in _UNHURRIED:
        try:
            Path("/proc/sys/net", name).write_text("0")
        except OSError as error:
            _logger.info("refusals may come slowly: %s", error)
