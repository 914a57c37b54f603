"""The network's resolver: the part of a segment that knows its containers' names, and passes the rest on.

Who asks is known by the source address, which the bridge's filter lets nobody forge; who is no endpoint is refused.
What an endpoint's egress policy forbids is REFUSED, what there is not NXDOMAIN, and neither leaves the host: names of
this network, addresses of it, and single words, which were meant for a container. An internal network has no outside.
"""

from collections.abc import Awaitable, Callable, Mapping

import dns.edns
import dns.name
import dns.rcode
import dns.rdatatype

from atoll.model.network import Egress, Endpoint, SegmentSpec
from atoll.network.segment.resolver.forwarder import Forwarder, Outlet
from atoll.network.segment.resolver.listeners import Listeners
from atoll.network.segment.resolver.message import (
    Question,
    address_records,
    addresses_in,
    answer,
    bare_answer,
    pointer_record,
    read_question,
    shuffled,
)
from atoll.network.segment.resolver.names import Names

Learn = Callable[[str, Mapping[str, int]], None]
"""Told the id of an endpoint with a list of domains, and the addresses that are now to be reachable for it, each with
its time to live in seconds, before the endpoint is told them."""

_PORT = 53
# What is asked of a name to connect to it. Others of a single word are about top-level domains.
_OF_HOSTS = frozenset(
    dns.rdatatype.from_text(kind) for kind in ("A", "AAAA", "ANY", "CNAME", "HTTPS", "SVCB", "MX", "SRV", "TXT")
)

# What an egress policy forbids: musl waits for a better answer than REFUSED until it gives up.
_FORBIDDEN = dns.rcode.NXDOMAIN


class Resolver:
    """Names for one network, at its gateway's addresses."""

    def __init__(self, outlet: Outlet, learn: Learn, port: int = _PORT) -> None:
        self._outlet = outlet
        self._learn = learn
        self._listeners = Listeners(self._answer, port)
        self._spec: SegmentSpec | None = None
        self._names: Names | None = None
        self._forwarder: Forwarder | None = None

    async def configure(self, spec: SegmentSpec) -> None:
        """Listen at the gateway's addresses; the endpoints that are there stay.

        Raises `VmFailed`, `InvalidRequest`.
        """
        if spec != self._spec:
            names = Names(spec)
            for endpoint in self._names or ():
                names.put(endpoint)
            self._names = names
            if self._forwarder is not None:
                self._forwarder.close()
            has_outside = spec.uplink != "none" and not spec.network.internal
            self._forwarder = Forwarder(self._outlet, spec.resolvers) if has_outside else None
            self._spec = spec
        subnets = (spec.network.ipv4, spec.network.ipv6)
        await self._listeners.listen(subnet.gateway for subnet in subnets if subnet is not None)

    async def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or change its names; the next question sees it."""
        if self._names is not None:
            self._names.put(endpoint)

    async def remove(self, endpoint_id: str) -> None:
        """An endpoint's names go."""
        if self._names is not None:
            self._names.remove(endpoint_id)

    async def close(self) -> None:
        """Answer no more."""
        if self._forwarder is not None:
            self._forwarder.close()
        await self._listeners.close()

    def _answer(self, wire: bytes, address: str, over_tcp: bool) -> Awaitable[bytes | None] | bytes | None:
        client = None if self._names is None else self._names.client(address)
        if self._names is None or client is None:
            return bare_answer(wire, dns.rcode.REFUSED)
        question = read_question(wire, over_tcp)
        if not isinstance(question, Question):
            return question
        return self._known(question, self._names, client) or self._forward(question, client)

    def _known(self, question: Question, names: Names, client: Endpoint) -> bytes | None:
        """The answer, if it is not for a resolver of the host to give."""
        if not question.is_of_the_internet:
            return answer(question, dns.rcode.REFUSED, why=dns.edns.EDECode.NOT_SUPPORTED)
        if (addresses := names.addresses(question.name, client)) is not None:
            return answer(question, records=shuffled(address_records(addresses, question.kind)))
        if (name := names.name_at(question.name, client)) is not None:
            pointed = question.kind in (dns.rdatatype.PTR, dns.rdatatype.ANY)
            return answer(question, records=[pointer_record(name)] if pointed else [])
        is_word = len(question.name) == 2 and question.kind in _OF_HOSTS  # the word, and the root
        if self._forwarder is None or is_word or names.is_ours(question.name):
            return answer(question, dns.rcode.NXDOMAIN)
        if not _may_ask(client.egress, question.name):
            return answer(question, _FORBIDDEN, why=dns.edns.EDECode.PROHIBITED)
        return None

    async def _forward(self, question: Question, client: Endpoint) -> bytes:
        found = None
        if self._forwarder is not None:
            found = await self._forwarder.ask(question.wire, question.over_tcp, client.resolvers)
        if found is not None and client.egress.mode == "listed":
            if (addresses := addresses_in(found)) is None:
                found = None
            elif addresses:
                self._learn(client.id, addresses)
        if found is None:
            return answer(question, dns.rcode.SERVFAIL, why=dns.edns.EDECode.NETWORK_ERROR)
        return found


def _may_ask(egress: Egress, name: dns.name.Name) -> bool:
    if egress.mode != "listed":
        return egress.mode != "none"
    words = name.to_text(omit_final_dot=True).lower()
    return any(words == domain or words.endswith(f".{domain}") for domain in egress.domains)
