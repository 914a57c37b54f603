"""The resolver of a network as a guest sees it: real packets between namespaces, and a resolver outside."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import dns.flags
import dns.message
import dns.query
import dns.rcode
import pytest
import pytest_asyncio
from harness.segment_place import (
    GATEWAY,
    RESOLVERS,
    WEB,
    Namespace,
    OpenOutlet,
    Place,
    endpoint,
    segment_place,
    spec,
)
from harness.upstream import Upstream, bound

from atoll.model.network import Egress
from atoll.network.segment.egress import Egress as EgressPart
from atoll.network.segment.nftables import Nftables
from atoll.network.segment.resolver import Resolver


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The namespaces of this module's tests."""
    with segment_place() as made:
        yield made


@pytest_asyncio.fixture
async def upstream(place: Place) -> AsyncIterator[Upstream]:
    """The resolver outside; `www.example.org` is the web server."""
    made = Upstream({"A": WEB[0], "AAAA": WEB[1]})
    for address in RESOLVERS:
        with place.outside.entered():
            sockets = bound(address, 53)
        await made.serve(*sockets)
    yield made
    made.close()


@pytest_asyncio.fixture
async def egress(place: Place) -> AsyncIterator[EgressPart]:
    """The way out of the network, for the endpoints `web` (a) and `db` (b)."""
    with place.segment.entered():
        egress = EgressPart(Nftables())
        await egress.configure(spec())
    for known in (endpoint(2, "web"), endpoint(3, "db")):
        await egress.put(known)
    yield egress
    await egress.close()


@pytest_asyncio.fixture
async def resolver(place: Place, upstream: Upstream, egress: EgressPart) -> AsyncIterator[Resolver]:
    """The network's resolver, for the same."""
    made = Resolver(OpenOutlet(place.outside), egress.learn)
    with place.segment.entered():
        await made.configure(spec(resolvers=RESOLVERS[::-1]))
    for known in (endpoint(2, "web"), endpoint(3, "db")):
        await made.put(known)
    yield made
    await made.close()


async def _ask(
    guest: Namespace, name: str, kind: str = "A", at: str = GATEWAY[0], tcp: bool = False
) -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return await guest.run(dns.query.tcp if tcp else dns.query.udp, query, at, timeout=3)


def _found(response: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for rrset in response.answer for record in rrset)


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize("at", GATEWAY)
async def test_a_guest_finds_its_neighbours_and_the_world(resolver: Resolver, place: Place, at: str, tcp: bool) -> None:
    assert _found(await _ask(place.a, "db", at=at, tcp=tcp)) == ["10.83.0.3"]
    assert _found(await _ask(place.b, "web", "AAAA", at=at, tcp=tcp)) == ["fd12::2"]
    assert _found(await _ask(place.a, "3.0.83.10.in-addr.arpa", "PTR", at=at, tcp=tcp)) == ["db."]
    assert _found(await _ask(place.a, "www.example.org", at=at, tcp=tcp)) == [WEB[0]]
    assert (await _ask(place.a, "nobody", at=at, tcp=tcp)).rcode() == dns.rcode.NXDOMAIN
    await resolver.remove(endpoint(3).id)
    assert (await _ask(place.a, "db", at=at, tcp=tcp)).rcode() == dns.rcode.NXDOMAIN
    assert (await _ask(place.b, "web", at=at, tcp=tcp)).rcode() == dns.rcode.REFUSED


async def test_what_does_not_fit_a_datagram_comes_over_tcp(resolver: Resolver, place: Place) -> None:
    assert (await _ask(place.a, "big.example.org")).flags & dns.flags.TC
    query = dns.message.make_query("big.example.org", "A")
    response, was_tcp = await place.a.run(dns.query.udp_with_fallback, query, GATEWAY[0], timeout=3)
    assert was_tcp
    assert len(_found(response)) == 100


async def test_the_c_library_finds_names(resolver: Resolver, place: Place) -> None:
    with place.a.resolv_conf("".join(f"nameserver {address}\n" for address in GATEWAY)):
        found = await asyncio.to_thread(place.a.program, "getent", "ahosts", "db")
        assert "10.83.0.3" in found
        assert "fd12::3" in found
        assert WEB[0] in await asyncio.to_thread(place.a.program, "getent", "ahosts", "www.example.org")


async def test_a_listed_domain_is_reachable_once_it_was_looked_up(
    resolver: Resolver, egress: EgressPart, place: Place
) -> None:
    listed = endpoint(2, "web", egress=Egress(mode="listed", domains=("example.org",)))
    await resolver.put(listed)
    await egress.put(listed)
    with place.outside.entered():
        servers = [socket.create_server((WEB[0], 443)), socket.create_server((WEB[1], 443), family=socket.AF_INET6)]
    try:
        for address, kind in ((WEB[0], "A"), (WEB[1], "AAAA")):
            assert not await place.a.run(_connects, address)
            assert (await _ask(place.a, "www.example.com", kind)).rcode() == dns.rcode.NXDOMAIN
            assert not await place.a.run(_connects, address)
            assert _found(await _ask(place.a, "www.example.org", kind)) == [address]
            assert await place.a.run(_connects, address)
    finally:
        for server in servers:
            server.close()


def _connects(address: str) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, 443), timeout=2):
        return True
    return False


async def test_a_flood_from_one_guest_starves_no_other(resolver: Resolver, upstream: Upstream, place: Place) -> None:
    upstream.manners = lambda query, wire: [] if b"slow" in wire else upstream.well(query, wire)
    flood = asyncio.create_task(place.a.run(_flood, 3.0))
    idle = await place.a.run(_connections, 100)
    await asyncio.sleep(0.5)
    took = []
    for _ in range(20):
        started = time.monotonic()
        assert _found(await _ask(place.b, "web")) == ["10.83.0.2"]
        assert _found(await _ask(place.b, "www.example.org")) == [WEB[0]]
        assert _found(await _ask(place.b, "www.example.org", tcp=True)) == [WEB[0]]
        took.append(time.monotonic() - started)
    assert await flood > 5000
    for connection in idle:
        connection.close()
    assert sorted(took)[10] < 0.5


def _flood(seconds: float) -> int:
    end, count = time.monotonic() + seconds, 0
    wires = [dns.message.make_query(f"slow{number}.example.org", "A").to_wire() for number in range(500)]
    wires += [os.urandom(40) for _ in range(100)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        while time.monotonic() < end:
            for wire in wires:
                with contextlib.suppress(BlockingIOError):
                    sender.sendto(wire, (GATEWAY[0], 53))
                count += 1
            time.sleep(0.005)
    return count


def _connections(count: int) -> list[socket.socket]:
    return [socket.create_connection((GATEWAY[0], 53), timeout=3) for _ in range(count)]


async def test_many_questions_at_once_are_answered(resolver: Resolver, place: Place) -> None:
    answers = await asyncio.gather(
        *(
            _ask(guest, f"n{number}.example.org", tcp=number % 5 == 0)
            for number in range(100)
            for guest in (place.a, place.b)
        )
    )
    assert {tuple(_found(answer)) for answer in answers} == {(WEB[0],)}


async def test_bad_manners_over_tcp_close_the_connection(resolver: Resolver, place: Place) -> None:
    def talk(words: bytes) -> bytes:
        with socket.create_connection((GATEWAY[0], 53), timeout=3) as connection:
            connection.sendall(words)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(100)

    for words in (b"", b"\0", b"\0\0", b"\xff\xffabc", b"\0\5hello"):
        assert await place.a.run(talk, words) == b""
    assert _found(await _ask(place.a, "db", tcp=True)) == ["10.83.0.3"]


async def test_it_listens_again_at_once_and_leaves_nothing_open(upstream: Upstream, place: Place) -> None:
    outlet = OpenOutlet(place.outside)
    before = _open_files()
    for _ in range(3):
        resolver = Resolver(outlet, lambda *_: None)
        with place.segment.entered():
            await resolver.configure(spec(resolvers=RESOLVERS))
        await resolver.put(endpoint(2, "web"))
        assert _found(await _ask(place.a, "www.example.org", tcp=True)) == [WEB[0]]
        assert _found(await _ask(place.a, "www.example.org")) == [WEB[0]]
        waiting = asyncio.create_task(_ask(place.a, "web", tcp=True))
        await waiting
        await resolver.close()
    await asyncio.sleep(0.1)
    assert _open_files() <= before


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
