"""What the resolver of a network does with messages, without its sockets; and how it asks those of the host."""

import asyncio
import struct
from collections.abc import AsyncIterator, Callable

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdatatype
import dns.reversename
import pytest
import pytest_asyncio
from harness.segment_place import OpenOutlet, endpoint, spec
from harness.upstream import Manners, Upstream, bound
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from atoll.model.network import Egress, SegmentSpec
from atoll.network.segment.resolver import Resolver
from atoll.network.segment.resolver.message import Question, answers, read_question

_LOOPBACK = ("127.0.0.1", "::1")
MakeUpstream = Callable[..., "asyncio.Future[Upstream]"]


@pytest_asyncio.fixture
async def upstreams() -> AsyncIterator[list[Upstream]]:
    """The resolvers that a test makes; closed at its end."""
    made: list[Upstream] = []
    yield made
    for upstream in made:
        upstream.close()


@pytest_asyncio.fixture
async def resolver() -> AsyncIterator[Resolver]:
    """A resolver whose sockets nobody asks; `learnt` has what the filter is told."""
    made = Resolver(OpenOutlet(), lambda endpoint_id, addresses: learnt.append((endpoint_id, dict(addresses))), port=0)
    learnt.clear()
    yield made
    await made.close()


learnt: list[tuple[str, dict[str, int]]] = []


def _spec(*resolvers: str, uplink: str = "veth", domain: str = "") -> SegmentSpec:
    return spec(resolvers=resolvers, uplink=uplink, domain=domain, gateway=_LOOPBACK)


async def _upstream(upstreams: list[Upstream], manners: Manners | None = None, address: str = "127.0.0.1") -> Upstream:
    upstreams.append(await Upstream(manners=manners).serve(*bound(address)))
    return upstreams[-1]


async def _ask_wire(resolver: Resolver, wire: bytes, source: str = "10.83.0.2", over_tcp: bool = False) -> bytes | None:
    # What a datagram of that source would get: in the tests' own network nobody has such an address.
    answer = resolver._answer(wire, source, over_tcp)
    return answer if answer is None or isinstance(answer, bytes) else await answer


async def _ask(
    resolver: Resolver,
    name: str,
    kind: str = "A",
    *,
    source: str = "10.83.0.2",
    payload: int = 0,
    over_tcp: bool = False,
) -> dns.message.Message:
    query = dns.message.make_query(name, kind, use_edns=0 if payload else -1, payload=payload or 512)
    wire = await _ask_wire(resolver, query.to_wire(), source, over_tcp)
    assert wire is not None
    response = dns.message.from_wire(wire)
    if response.question:
        assert query.is_response(response)
        assert query.question[0].to_text() == response.question[0].to_text()  # also the case of its letters
    assert response.id == query.id
    return response


def _found(response: dns.message.Message) -> list[str]:
    assert response.rcode() == dns.rcode.NOERROR
    return sorted(record.to_text() for rrset in response.answer for record in rrset)


async def test_names_aliases_and_ids_have_the_addresses_of_who_has_them(resolver: Resolver) -> None:
    await resolver.configure(_spec(domain="reef.test"))
    await resolver.put(endpoint(2, "web", "shared"))
    await resolver.put(endpoint(3, "db.main", "Shared", "späti"))
    for name in ("web", "WeB.", "web.reef.test", "02" * 6, "02" * 6 + ".reef.test"):
        assert _found(await _ask(resolver, name)) == ["10.83.0.2"]
        assert _found(await _ask(resolver, name, "AAAA")) == ["fd12::2"]
        assert _found(await _ask(resolver, name, "ANY")) == ["10.83.0.2", "fd12::2"]
        assert _found(await _ask(resolver, name, "MX")) == []
    assert (
        _found(await _ask(resolver, "db.main"))
        == _found(await _ask(resolver, "späti".encode("idna").decode()))
        == ["10.83.0.3"]
    )
    both = [[record.to_text() for record in (await _ask(resolver, "shared")).answer[0]] for _ in range(40)]
    assert {tuple(addresses) for addresses in both} == {("10.83.0.2", "10.83.0.3"), ("10.83.0.3", "10.83.0.2")}
    assert all(rrset.ttl <= 10 for rrset in (await _ask(resolver, "shared")).answer)


async def test_an_address_has_a_name(resolver: Resolver) -> None:
    await resolver.configure(_spec())
    await resolver.put(endpoint(2, "web", "other"))
    await resolver.put(endpoint(3, foreign={"away": ("192.0.2.3",)}))
    for address, name in (("10.83.0.2", "web."), ("fd12::2", "web."), ("10.83.0.3", "03" * 6 + ".")):
        assert _found(await _ask(resolver, dns.reversename.from_address(address).to_text(), "PTR")) == [name]
    away = dns.reversename.from_address("192.0.2.3").to_text()
    assert _found(await _ask(resolver, away, "PTR", source="10.83.0.3")) == ["away."]
    # Nobody outside is asked who else is in here.
    for address in ("10.83.0.9", "fd12::9"):
        response = await _ask(resolver, dns.reversename.from_address(address).to_text(), "PTR")
        assert response.rcode() == dns.rcode.NXDOMAIN
    await resolver.configure(_spec(domain="reef.test"))
    assert _found(await _ask(resolver, "2.0.83.10.in-addr.arpa", "PTR")) == ["web.reef.test."]


async def test_names_of_other_networks_are_for_who_is_on_them(resolver: Resolver) -> None:
    await resolver.configure(_spec())
    await resolver.put(endpoint(2, "web", foreign={"Db": ("192.0.2.9", "2001:db8::9"), "web": ("192.0.2.1",)}))
    await resolver.put(endpoint(3, "other"))
    assert _found(await _ask(resolver, "db")) == ["192.0.2.9"]
    assert _found(await _ask(resolver, "db", "AAAA", source="fd12::2")) == ["2001:db8::9"]
    assert _found(await _ask(resolver, "web")) == ["10.83.0.2"]
    assert (await _ask(resolver, "db", source="10.83.0.3")).rcode() == dns.rcode.NXDOMAIN


async def test_who_comes_and_goes_is_seen_by_the_next_question(resolver: Resolver) -> None:
    await resolver.configure(_spec())
    await resolver.put(endpoint(2, "web"))
    await resolver.put(endpoint(3, "db"))
    assert _found(await _ask(resolver, "db")) == ["10.83.0.3"]
    await resolver.put(endpoint(3, "db2"))
    assert (await _ask(resolver, "db")).rcode() == dns.rcode.NXDOMAIN
    await resolver.configure(_spec(domain="x"))
    assert _found(await _ask(resolver, "db2.x")) == ["10.83.0.3"]
    await resolver.remove(endpoint(3).id)
    await resolver.remove(endpoint(3).id)
    assert (await _ask(resolver, "db2")).rcode() == dns.rcode.NXDOMAIN
    assert (await _ask(resolver, "web", source="10.83.0.3")).rcode() == dns.rcode.REFUSED  # it is no endpoint any more


async def test_many_addresses_are_cut_to_what_the_client_takes(resolver: Resolver) -> None:
    await resolver.configure(_spec())
    for number in range(2, 102):
        await resolver.put(endpoint(number, "crowd"))
    query = dns.message.make_query("crowd", "A")
    assert len(await _ask_wire(resolver, query.to_wire()) or b"") <= 512
    assert (await _ask(resolver, "crowd")).flags & dns.flags.TC
    assert (await _ask(resolver, "crowd", payload=65535)).flags & dns.flags.TC  # a datagram is no fragment
    assert len(_found(await _ask(resolver, "crowd", over_tcp=True))) == 100


async def test_what_is_not_here_is_asked_of_the_host_as_it_came(resolver: Resolver, upstreams: list[Upstream]) -> None:
    for address in ("127.0.0.1", "::1"):
        upstream = await _upstream(upstreams, address=address)
        await resolver.configure(_spec("fe80::1%eth0", upstream.address))
        await resolver.put(endpoint(2, "web"))
        assert _found(await _ask(resolver, "wWw.Example.ORG", payload=1400)) == ["192.0.2.7"]
        transport, asked = upstream.asked[-1]
        assert (transport, asked.payload, asked.question[0].name.to_text()) == ("udp", 1400, "wWw.Example.ORG.")
        assert (await _ask(resolver, "gone.example.org")).rcode() == dns.rcode.NXDOMAIN
        big = await _ask(resolver, "big.example.org")
        assert big.flags & dns.flags.TC
        assert len(_found(await _ask(resolver, "big.example.org", over_tcp=True))) == 100
        assert upstream.asked[-1][0] == "tcp"
        assert _found(await _ask(resolver, "org", "DS")) == []  # a word, but not a container's
        asked_so_far = len(upstream.asked)
        assert (await _ask(resolver, "db")).rcode() == dns.rcode.NXDOMAIN
        assert len(upstream.asked) == asked_so_far


async def test_numbers_and_ports_are_not_to_be_guessed(resolver: Resolver, upstreams: list[Upstream]) -> None:
    upstream = await _upstream(upstreams)
    await resolver.configure(_spec(upstream.address))
    await resolver.put(endpoint(2))
    for _ in range(64):
        await _ask(resolver, "www.example.org")
    assert len({query.id for _, query in upstream.asked}) > 60
    assert len(upstream.senders) >= 5


async def test_an_answer_that_was_not_asked_for_is_none(resolver: Resolver, upstreams: list[Upstream]) -> None:
    stranger, _ = bound("127.0.0.1")
    stranger.setblocking(True)

    def lie(query: dns.message.Message, wire: bytes) -> list[bytes]:
        forged = upstream.answer(dns.message.make_query("evil.example.org", "A", id=query.id)).to_wire()
        other_number = struct.pack("!H", query.id ^ 1) + upstream.answer(query).to_wire()[2:]
        for sender in upstream.senders:  # all the right words from another port
            stranger.sendto(upstream.answer(query).to_wire(), sender)
        return [b"", b"\0" * 12, wire, forged, other_number, forged[:20]]

    with stranger:
        upstream = await _upstream(upstreams, lie)
        await resolver.configure(_spec(upstream.address))
        await resolver.put(endpoint(2))
        assert (await _ask(resolver, "www.example.org")).rcode() == dns.rcode.SERVFAIL


async def test_a_resolver_that_fails_is_followed_by_the_next(resolver: Resolver, upstreams: list[Upstream]) -> None:
    def fail(query: dns.message.Message, wire: bytes) -> list[bytes]:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.SERVFAIL)
        return [response.to_wire()]

    failing, silent, well = [await _upstream(upstreams, manners) for manners in (fail, lambda query, wire: [], None)]
    await resolver.configure(_spec(failing.address, silent.address, well.address))
    await resolver.put(endpoint(2))
    async with asyncio.timeout(4):
        assert _found(await _ask(resolver, "www.example.org")) == ["192.0.2.7"]
    async with asyncio.timeout(1):  # who was silent is asked last
        assert _found(await _ask(resolver, "www.example.org")) == ["192.0.2.7"]
    assert (len(failing.asked), len(silent.asked)) == (2, 1)
    well.close()
    silent.close()
    async with asyncio.timeout(6):
        assert (await _ask(resolver, "www.example.org")).rcode() == dns.rcode.SERVFAIL
    await resolver.configure(_spec())
    assert (await _ask(resolver, "www.example.org")).rcode() == dns.rcode.SERVFAIL


async def test_a_container_with_resolvers_of_its_own_has_those_asked(
    resolver: Resolver, upstreams: list[Upstream]
) -> None:
    hosts, own = [await _upstream(upstreams) for _ in range(2)]
    await resolver.configure(_spec(hosts.address))
    await resolver.put(replace(endpoint(2, "web"), resolvers=(own.address,)))
    assert _found(await _ask(resolver, "www.example.org")) == ["192.0.2.7"]
    assert _found(await _ask(resolver, "web")) == ["10.83.0.2"]
    assert (len(hosts.asked), len(own.asked)) == (0, 1)


async def test_an_internal_network_knows_its_own_names_only(resolver: Resolver, upstreams: list[Upstream]) -> None:
    upstream = await _upstream(upstreams)
    await resolver.configure(_spec(upstream.address, uplink="none"))
    await resolver.put(endpoint(2, "web"))
    assert _found(await _ask(resolver, "web")) == ["10.83.0.2"]
    assert (await _ask(resolver, "www.example.org")).rcode() == dns.rcode.NXDOMAIN
    assert upstream.asked == []


async def test_a_policy_says_which_names_may_be_asked(resolver: Resolver, upstreams: list[Upstream]) -> None:
    upstream = await _upstream(upstreams)
    await resolver.configure(_spec(upstream.address))
    await resolver.put(endpoint(2, "web", egress=Egress(mode="none")))
    await resolver.put(endpoint(3, egress=Egress(mode="dns")))
    listed = Egress(mode="listed", allow=("192.0.2.0/24",), domains=("example.org",))
    await resolver.put(endpoint(4, egress=listed))
    refused = await _ask(resolver, "www.example.org", payload=1232)
    assert refused.rcode() == dns.rcode.NXDOMAIN
    assert [option.code for option in refused.options if isinstance(option, dns.edns.EDEOption)] == [18]
    for source in ("10.83.0.2", "10.83.0.4"):
        assert (await _ask(resolver, "example.com", source=source)).rcode() == dns.rcode.NXDOMAIN
        assert (await _ask(resolver, "notexample.org", source=source)).rcode() == dns.rcode.NXDOMAIN
        assert _found(await _ask(resolver, "web", source=source)) == ["10.83.0.2"]
    assert upstream.asked == []
    assert _found(await _ask(resolver, "www.example.org", source="10.83.0.3")) == ["192.0.2.7"]
    assert learnt == []
    assert _found(await _ask(resolver, "WWW.Example.org", source="10.83.0.4")) == ["192.0.2.7"]
    assert _found(await _ask(resolver, "example.org", "AAAA", source="fd12::4")) == ["2001:db8::7"]
    assert learnt == [(endpoint(4).id, {"192.0.2.7": 60}), (endpoint(4).id, {"2001:db8::7": 60})]


def _header(number: int, flags: int, *counts: int) -> bytes:
    return struct.pack("!6H", number, flags, *(*counts, 0, 0, 0, 0)[:4])


@pytest.mark.parametrize(
    ("wire", "rcode"),
    [
        (b"", None),
        (b"\0" * 11, None),
        (_header(7, 0x8000), None),
        (_header(7, 0), dns.rcode.FORMERR),
        (_header(7, 0, 1), dns.rcode.FORMERR),
        (_header(7, 0, 1) + b"\xc0\x0c\0\1\0\1", dns.rcode.FORMERR),
        (_header(7, 0, 2) + b"\1a\0\0\1\0\1" * 2, dns.rcode.FORMERR),
        (_header(7, 0, 1) + b"\1a\0\0\1\0\1tail", dns.rcode.FORMERR),
        (_header(7, 0x1000, 1) + b"\1a\0\0\1\0\1", dns.rcode.NOTIMP),
        (_header(7, 0x2800, 1) + b"\1a\0\0\6\0\1", dns.rcode.NOTIMP),
        (_header(7, 0, 1) + b"\1a\0\0\xfc\0\1", dns.rcode.REFUSED),
        (_header(7, 0, 1) + b"\1a\0\0\1\0\3", dns.rcode.REFUSED),
        (_header(7, 0, 1, 0, 0, 1) + b"\1a\0\0\1\0\1" + b"\0\0\x29\4\xd0\0\1\0\0\0\0", dns.rcode.BADVERS),
    ],
)
async def test_what_is_no_question_gets_its_error(
    resolver: Resolver, wire: bytes, rcode: dns.rcode.Rcode | None
) -> None:
    await resolver.configure(_spec())
    await resolver.put(endpoint(2))
    answer = await _ask_wire(resolver, wire)
    if rcode is None or answer is None:
        assert answer is rcode
    else:
        message = dns.message.from_wire(answer)
        assert (message.id, message.rcode()) == (7, rcode)
        assert message.flags & dns.flags.QR


_OPTIONS = st.sampled_from(
    [b"", b"\0\0\x29\4\xd0\0\0\0\0\0\0", b"\0\0\x29\0\0\0\0\x80\0\0\4\0\3\0\0", b"\0\0\xfa\0\xff\0\0\0\0\0\0"]
)
_NAMES = st.lists(st.binary(min_size=1, max_size=8), max_size=5).map(
    lambda labels: b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
)
_WIRES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda number, flags, counts, name, kind, rdclass, rest: (
            _header(number, flags, *counts) + name + struct.pack("!HH", kind, rdclass) + rest
        ),
        st.integers(0, 0xFFFF),
        st.sampled_from([0, 0x0100, 0x0110, 0x0800, 0x2800, 0x7800, 0x8180, 0xFFFF]),
        st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 1), st.integers(0, 2)),
        _NAMES,
        st.sampled_from([0, 1, 2, 5, 6, 12, 28, 41, 65, 249, 250, 251, 252, 255, 0xFFFF]),
        st.sampled_from([0, 1, 3, 254, 255, 0xFFFF]),
        _OPTIONS | st.binary(max_size=40),
    ),
)


@given(wire=_WIRES, over_tcp=st.booleans())
def test_no_message_breaks_it(wire: bytes, over_tcp: bool) -> None:
    async def ask() -> None:
        resolver = Resolver(OpenOutlet(), lambda *_: None, port=0)
        await resolver.configure(_spec())
        try:
            await resolver.put(endpoint(2, "a"))
            answer = await _ask_wire(resolver, wire, over_tcp=over_tcp)
        finally:
            await resolver.close()
        if answer is not None:
            assert answer[:2] == wire[:2]
            assert answer[2] & 0x80
            assert over_tcp or len(answer) <= 1232
            dns.message.from_wire(answer)

    asyncio.run(ask())


@given(answer=_WIRES, question=_WIRES)
def test_no_answer_breaks_it_either(answer: bytes, question: bytes) -> None:
    if isinstance(read_question(question, False), Question):
        assert answers(answer, question) in (True, False)
        assert not answers(question, question)
        assert not answers(b"", question)
    assert not answers(answer, b"")
