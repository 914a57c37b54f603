"""What a container may send out of its network: real packets between namespaces, judged by the real filter."""

import asyncio
import contextlib
import errno
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from harness.segment_place import (
    GATEWAY,
    HOST,
    METADATA,
    OTHER_WEB,
    WEB,
    Namespace,
    Place,
    endpoint,
    segment_place,
    spec,
)

from atoll.model.network import Egress, SegmentSpec
from atoll.network.segment.egress import Egress as EgressPart
from atoll.network.segment.nftables import Nftables

_REFUSED = {errno.EHOSTUNREACH, errno.EACCES}


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The namespaces of this module's tests."""
    with segment_place() as made:
        yield made


@pytest_asyncio.fixture
async def egress(place: Place) -> AsyncIterator[EgressPart]:
    """A table without endpoints; outside, every address answers on the ports 443 and 8080 with who has come."""
    with place.segment.entered():
        part = EgressPart(Nftables())
    servers = []
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        for port in (443, 8080):
            with place.outside.entered():
                opened = socket.create_server((address, port), family=family)
            servers.append(await asyncio.start_server(_say_who, sock=opened))
    await _configure(part, place, spec())
    yield part
    await part.close()
    for server in servers:
        server.close()


async def _say_who(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(writer.get_extra_info("peername")[0].encode() + b"\n")
    while line := await reader.readline():
        writer.write(line)
    writer.close()


async def _configure(part: EgressPart, place: Place, wanted: SegmentSpec) -> None:
    # Kernel settings are of the namespace that a thread is in.
    with place.segment.entered():
        await part.configure(wanted)


def _visit(address: str, port: int = 443) -> str | int:
    """Who the server says that we are; or why it could not be reached."""
    try:
        with socket.create_connection((address, port), timeout=2) as connection:
            return connection.makefile().readline().strip()
    except OSError as error:
        return error.errno or errno.ETIMEDOUT


async def _visits(guest: Namespace, *addresses: str, port: int = 443) -> list[str | int]:
    return list(await asyncio.gather(*(guest.run(_visit, address, port) for address in addresses)))


async def test_everybody_goes_out_in_the_uplinks_name(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2))
    assert await _visits(place.a, *WEB) == ["203.0.113.2", "2001:db8::2"]
    assert not set(await _visits(place.b, *WEB)) & {"203.0.113.2", "2001:db8::2"}  # is no endpoint


async def test_metadata_and_the_host_are_refused_at_once(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2))
    async with asyncio.timeout(1.5):
        assert set(await _visits(place.a, METADATA, HOST, HOST, HOST, METADATA)) <= _REFUSED
    # The segment's own addresses on the uplink, too.
    assert set(await _visits(place.a, "203.0.113.2", "2001:db8::2")) <= _REFUSED
    assert egress.refused()[endpoint(2).id] >= 7
    await _configure(egress, place, spec(reaches_metadata=True))
    assert await _visits(place.a, METADATA) == ["203.0.113.2"]
    assert set(await _visits(place.a, HOST)) <= _REFUSED


@pytest.mark.parametrize("mode", ["none", "dns"])
async def test_who_may_reach_nothing_reaches_the_neighbours_only(egress: EgressPart, place: Place, mode: str) -> None:
    await egress.put(endpoint(2, egress=Egress(mode="none" if mode == "none" else "dns")))
    await egress.put(endpoint(3))
    assert set(await _visits(place.a, *WEB)) <= _REFUSED
    assert set(await _visits(place.b, *WEB)) == {"203.0.113.2", "2001:db8::2"}
    with place.b.entered():
        listener = socket.create_server(("10.83.0.3", 443))
    with listener:
        assert await place.a.run(_connects, "10.83.0.3")


def _connects(address: str) -> bool:
    with socket.create_connection((address, 443), timeout=2):
        return True


async def test_a_list_is_of_networks_and_ports(egress: EgressPart, place: Place) -> None:
    allow = ("198.51.100.80:443", "2001:db8:80::/64", "203.0.113.0/24", "0.0.0.0/32")
    await egress.put(endpoint(2, egress=Egress(mode="listed", allow=allow)))
    assert await _visits(place.a, WEB[0]) == ["203.0.113.2"]
    assert await _visits(place.a, WEB[1], OTHER_WEB[1], port=8080) == ["2001:db8::2"] * 2
    assert set(await _visits(place.a, WEB[0], port=8080)) <= _REFUSED
    assert set(await _visits(place.a, OTHER_WEB[0], METADATA, HOST)) <= _REFUSED


async def test_a_list_grows_by_what_was_looked_up_and_by_nothing_of_the_hosts(egress: EgressPart, place: Place) -> None:
    for number in (2, 3):
        await egress.put(endpoint(number, egress=Egress(mode="listed", domains=("example.org",))))
    assert set(await _visits(place.a, *WEB)) <= _REFUSED
    for _ in range(2):
        egress.learn(endpoint(2).id, {WEB[0]: 1, WEB[1]: 100_000, METADATA: 60, HOST: 60, "::ffff:198.51.100.81": 60})
    assert await _visits(place.a, *WEB) == ["203.0.113.2", "2001:db8::2"]
    assert set(await _visits(place.a, METADATA, HOST)) <= _REFUSED
    assert set(await _visits(place.b, *WEB)) <= _REFUSED  # it has not asked
    listed = place.segment.program("nft", "list", "set", "inet", "egress", f"learnt4_{endpoint(2).id[:12]}")
    assert f"{WEB[0]} timeout 5m" in listed
    listed = place.segment.program("nft", "list", "set", "inet", "egress", f"learnt6_{endpoint(2).id[:12]}")
    assert f"{WEB[1]} timeout 1d" in listed


async def test_more_addresses_than_there_is_room_for_hurt_nobody(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2, egress=Egress(mode="listed", domains=("example.org",))))
    egress.learn(endpoint(2).id, {WEB[0]: 60})
    for block in range(10):
        egress.learn(endpoint(2).id, {f"192.0.{block}.{number}": 60 for number in range(256)} | {"192.1.0.1": 60})
    for block in range(30):
        egress.learn(endpoint(2).id, {f"10.0.{block}.{number}": 60 for number in range(256)})
    assert await _visits(place.a, WEB[0]) == ["203.0.113.2"]


async def test_an_internal_network_has_no_way_out(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2, egress=Egress(mode="listed", allow=("0.0.0.0/0",))))
    assert await _visits(place.a, WEB[0]) == ["203.0.113.2"]
    await _configure(egress, place, spec(uplink="none"))
    await egress.put(endpoint(3))
    assert set(await _visits(place.a, *WEB)) | set(await _visits(place.b, *WEB)) <= _REFUSED
    await egress.remove(endpoint(2).id)


async def test_a_policy_holds_for_open_connections(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2))
    with place.a.entered():
        connection = socket.create_connection((WEB[0], 443), timeout=0.5)
    with connection:
        assert await asyncio.to_thread(_echoes, connection)
        # A segment that was killed and comes back has the same rules, and loses no connection.
        with place.segment.entered():
            again = EgressPart(Nftables())
        await _configure(again, place, spec())
        await again.put(endpoint(2))
        assert await asyncio.to_thread(_echoes, connection)
        await again.put(endpoint(2, egress=Egress(mode="listed", allow=(WEB[0],))))
        assert await asyncio.to_thread(_echoes, connection)
        await again.put(endpoint(2, egress=Egress(mode="none")))
        assert not await asyncio.to_thread(_echoes, connection)


def _echoes(connection: socket.socket) -> bool:
    words = b"still there?\n"
    try:
        connection.sendall(words)
        received = b""
        while not received.endswith(words):
            if not (piece := connection.recv(100)):
                return False
            received += piece
    except OSError:
        return False
    return True


async def test_what_is_late_for_an_endpoint_is_not_for_who_has_its_address_next(
    egress: EgressPart, place: Place
) -> None:
    await egress.put(endpoint(2))
    with place.outside.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with place.a.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((WEB[0], 5000))
        server.settimeout(2)
        client.settimeout(0.3)
        client.bind(("10.83.0.2", 5000))
        client.sendto(b"ping", (WEB[0], 5000))
        _, sender = await asyncio.to_thread(server.recvfrom, 10)
        server.sendto(b"pong", sender)
        assert await asyncio.to_thread(client.recv, 10) == b"pong"
        await egress.remove(endpoint(2).id)
        await egress.put(endpoint(2, egress=Egress(mode="dns")))
        server.sendto(b"late", sender)
        with pytest.raises(TimeoutError):
            await asyncio.to_thread(client.recv, 10)


async def test_nobody_comes_in_through_the_uplink(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2))
    place.outside.ip("route replace 10.83.0.0/24 via 203.0.113.2\nroute replace fd12::/64 via 2001:db8::2")
    with place.a.entered():
        listener = socket.create_server(("", 443))
    with listener:
        assert await place.b.run(_connects, "10.83.0.2")
        for address in ("10.83.0.2", "10.83.0.1", "203.0.113.2"):
            assert await place.outside.run(_visit, address) == errno.ETIMEDOUT


async def test_endpoints_come_and_go_and_leave_the_table_as_it_was(egress: EgressPart, place: Place) -> None:
    before = place.segment.program("nft", "list", "table", "inet", "egress")
    for number in range(2, 12):
        await egress.put(endpoint(number, egress=Egress(mode="listed", allow=("192.0.2.0/24:53",), domains=("a.b",))))
        await egress.put(endpoint(number))
        await egress.put(endpoint(number, egress=Egress(mode="listed", allow=("192.0.2.0/24:53",), domains=("a.b",))))
        egress.learn(endpoint(number).id, {WEB[0]: 1})
    for number in range(2, 12):
        await egress.remove(endpoint(number).id)
        await egress.remove(endpoint(number).id)
    assert place.segment.program("nft", "list", "table", "inet", "egress") == before
    assert egress.refused() == {}


async def test_the_gateway_may_be_the_host_and_be_on_a_list(egress: EgressPart, place: Place) -> None:
    # As the uplink of the network `host` has it.
    rules = "type nat hook prerouting priority dstnat;" + "".join(
        f" {family} daddr {gateway} tcp dport != 53 dnat {family} to {host};"
        for family, gateway, host in (("ip", GATEWAY[0], HOST), ("ip6", GATEWAY[1], "2001:db8::1"))
    )
    place.segment.program("nft", f"table inet to_host {{ chain lead {{ {rules} }}\n}}")
    try:
        await _configure(egress, place, spec(to_host=True))
        await egress.put(endpoint(2, egress=Egress(mode="listed", allow=(f"{GATEWAY[0]}:443", GATEWAY[1]))))
        await egress.put(endpoint(3, egress=Egress(mode="none")))
        assert await _visits(place.a, *GATEWAY) == ["203.0.113.2", "2001:db8::2"]
        assert set(await _visits(place.a, GATEWAY[0], port=8080)) <= _REFUSED
        assert set(await _visits(place.b, *GATEWAY)) <= _REFUSED
    finally:
        place.segment.program("nft", "delete table inet to_host")


async def test_one_endpoint_cannot_use_up_what_connections_need(egress: EgressPart, place: Place) -> None:
    await egress.put(endpoint(2))
    await egress.put(endpoint(3))
    await place.a.run(_send_to_many, 9000)
    assert egress.refused()[endpoint(2).id] >= 700
    assert set(await _visits(place.a, WEB[0])) <= _REFUSED
    assert await _visits(place.b, WEB[0]) == ["203.0.113.2"]


def _send_to_many(ports: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for port in range(10_000, 10_000 + ports):
            with contextlib.suppress(OSError):  # what was refused before
                sender.sendto(b"x", (WEB[0], port))
