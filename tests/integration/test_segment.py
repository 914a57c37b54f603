"""Keeper and segment as processes, and VMs played by the test: it holds the taps' other ends and writes frames.

All of it is done as whoever runs the test, and once more by a user without any privilege.
"""

import asyncio
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from harness.checkout import CHECKOUT
from harness.ethernet import (
    ARP,
    BROADCAST,
    FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    TCP,
    UDP,
    VLAN,
    Host,
    Port,
    arp,
    discovery,
    echo,
    frame,
    icmpv6,
    ipv4,
    ipv6,
    link_layer,
    mac_bytes,
    syn,
    udp,
)
from harness.internet import UNPRIVILEGED_UID, tun_for_everybody
from harness.process import Process
from msgspec.structs import replace

from atoll.errors import NotFound, Unavailable, VmFailed
from atoll.model.network import Endpoint, Network, SegmentSpec, Subnet
from atoll.network.client import SegmentClient, start_segment
from atoll.network.keeper_client import Keeper, start_keeper
from atoll.network.segment.bridge import bridge_mac

NETWORK_ID = "5e6" + "0" * 61
GATEWAY_MAC = bridge_mac(NETWORK_ID)
GATEWAY, GATEWAY6 = "203.0.113.1", "2001:db8:5e6::1"
ALL_NODES, ALL_NODES_MAC = "ff02::1", "33:33:00:00:00:01"
A, B, C = (Host(f"02:5e:60:00:00:0{number}", f"203.0.113.{number}", f"2001:db8:5e6::{number}") for number in (2, 3, 4))
MALLORY = "02:66:66:66:66:66"
NAMES = ("a", "b", "c")
AS_NOBODY = ("setpriv", f"--reuid={UNPRIVILEGED_UID}", f"--regid={UNPRIVILEGED_UID}", "--clear-groups", "--")


class Lan:
    """A network with the taps of three containers on it."""

    def __init__(self, directory: Path, keeper: Keeper, segment: SegmentClient, ports: list[Port]) -> None:
        self.directory, self.keeper, self.segment, self.ports = directory, keeper, segment, ports

    @property
    def endpoints(self) -> list[Endpoint]:
        """The containers, with their taps."""
        return [
            Endpoint(id=name, mac=port.host.mac, ipv4=port.host.ipv4, ipv6=port.host.ipv6, tap=port.name)
            for name, port in zip(NAMES, self.ports, strict=True)
        ]

    async def forged(self, name: str = "a") -> int:
        """How many frames of a container were dropped as forged."""
        return (await self.segment.counters())[name].forged

    async def arriving(self, at: Port, *sent: bytes, by: Port) -> list[bytes]:
        """What of `sent`, by one container, arrives at another: an honest frame behind them shows when all has."""
        marker = honest(by.host, at.host, b"marker")
        for data in (*sent, marker):
            by.send(data)
        came = await at.receive_until(lambda data: data == marker)
        return [data for data in came if data in sent]


def network(**changes: object) -> Network:
    """A network of documentation addresses."""
    given = {
        "id": NETWORK_ID,
        "name": "lan",
        "created_at": datetime.now(UTC),
        "ipv4": Subnet("203.0.113.0/24", GATEWAY),
        "ipv6": Subnet("2001:db8:5e6::/64", GATEWAY6),
        "internal": True,
    }
    return Network(**(given | changes))  # type: ignore[arg-type]


def spec(**changes: object) -> SegmentSpec:
    """That network without a way out."""
    return SegmentSpec(network=network(**changes), uplink="none")


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """An engine's directory, whose keeper these tests share."""
    with engine_directory() as path:
        yield path


@pytest.fixture
def own_directory() -> Iterator[Path]:
    """An engine's directory for one test."""
    with engine_directory() as path:
        yield path


@contextmanager
def engine_directory() -> Iterator[Path]:
    """A directory for keeper and segments; at the end none of their processes may be left."""
    path = Path(tempfile.mkdtemp(prefix="atoll-segment-", dir="/tmp"))
    yield path
    for process in processes_of(path):
        process.wait(timeout_s=20)
    left = [entry.name for entry in path.iterdir() if entry.suffix != ".lock"]
    shutil.rmtree(path)
    assert not left, f"left behind: {left}"


@pytest.fixture
async def lan(directory: Path) -> AsyncIterator[Lan]:
    """Three containers on a network."""
    async with make_lan(directory) as made:
        yield made


@asynccontextmanager
async def make_lan(directory: Path, **changes: object) -> AsyncIterator[Lan]:
    """Three containers on a network with `changes`."""
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(await start_keeper(directory))
        segment = await start_segment(directory, NETWORK_ID)
        ports = []
        for host in (A, B, C):
            (tap,) = await keeper.taps(1)
            ports.append(Port(tap.name, tap.fd, host))
            stack.callback(ports[-1].close)
        lan = Lan(directory, keeper, segment, ports)
        await segment.configure(spec(**changes), ())
        for endpoint in lan.endpoints:
            await segment.put(Endpoint(id=endpoint.id, mac=endpoint.mac, ipv4=endpoint.ipv4, ipv6=endpoint.ipv6))
            await segment.plug(endpoint.id, endpoint.tap)
        try:
            yield lan
        finally:
            await lan.segment.stop()


def processes_of(directory: Path) -> list[Process]:
    """Keeper and segments of an engine's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(Process.of(int(entry.name)))
        except (OSError, ProcessLookupError):
            continue
    return found


def honest(source: Host, target: Host, data: bytes = b"hello") -> bytes:
    """A datagram from one container to another."""
    packet = ipv4(source.ipv4, target.ipv4, UDP, udp(source.ipv4, target.ipv4, 7, 7, data))
    return frame(source.mac, target.mac, IPV4, packet)


def honest6(source: Host, target: Host, data: bytes = b"hello") -> bytes:
    """The same over IPv6."""
    packet = ipv6(source.ipv6, target.ipv6, UDP, udp(source.ipv6, target.ipv6, 7, 7, data))
    return frame(source.mac, target.mac, IPV6, packet)


def fragmented(source: str, target: str, protocol: int, payload: bytes, offset_and_more: int = 1) -> bytes:
    """An IPv6 packet with a fragment header."""
    return ipv6(source, target, FRAGMENT, struct.pack("!BBHI", protocol, 0, offset_and_more, 9) + payload)


def solicited(address: str) -> tuple[str, str]:
    """The group that hears who asks for an IPv6 address, and its MAC."""
    tail = IPv6Address(address).packed[-3:]
    group = IPv6Address(b"\xff\x02" + bytes(9) + b"\x01\xff" + tail)
    return str(group), f"33:33:ff:{tail.hex(':')}"


async def test_neighbours_find_and_reach_each_other(lan: Lan) -> None:
    a, b, _ = lan.ports
    group, group_mac = solicited(B.ipv6)
    sent = [
        frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, B.ipv4)),
        frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, A.ipv4)),  # announces itself
        frame(A.mac, B.mac, ARP, arp(2, A.mac, A.ipv4, B.ipv4, B.mac)),
        honest6(A, B),
        frame(A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, link_layer(1, A.mac))),
        frame(A.mac, group_mac, IPV6, discovery(135, A.link_local, group, B.ipv6, link_layer(1, A.mac))),
        frame(A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, A.ipv6, link_layer(2, A.mac))),
        frame(A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, A.ipv6)),
        frame(A.mac, group_mac, IPV6, discovery(135, "::", solicited(A.ipv6)[0], A.ipv6)),
        frame(
            A.mac, "01:00:5e:00:00:fb", IPV4, ipv4(A.ipv4, "224.0.0.251", UDP, udp(A.ipv4, "224.0.0.251", 7, 7, b""))
        ),
        frame(A.mac, B.mac, IPV6, fragmented(A.ipv6, B.ipv6, UDP, udp(A.ipv6, B.ipv6, 7, 7, b"12345678"))),
    ]
    assert await lan.arriving(b, *sent, by=a) == sent
    assert await lan.forged() == 0


async def test_the_gateway_answers_pings_and_neighbour_discovery(lan: Lan) -> None:
    a, *_ = lan.ports
    a.send(frame(A.mac, GATEWAY_MAC, IPV4, ipv4(A.ipv4, GATEWAY, ICMP, echo(b"ping"))))
    await a.receive_until(lambda data: data[12:14] == b"\x08\x00" and data[23] == ICMP and data[34] == 0)
    a.send(frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, GATEWAY)))
    *_, answer = await a.receive_until(lambda data: data[12:14] == b"\x08\x06")
    assert answer[22:28] == bytes.fromhex(GATEWAY_MAC.replace(":", ""))
    group, group_mac = solicited(GATEWAY6)
    a.send(frame(A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, GATEWAY6, link_layer(1, A.mac))))
    *_, advert = await a.receive_until(lambda data: data[12:14] == b"\x86\xdd" and data[54] == 136)
    assert advert[-6:] == bytes.fromhex(GATEWAY_MAC.replace(":", ""))


def forgeries() -> dict[str, bytes]:
    """Frames from A's tap that bear what is not A's, or are not a guest's to send; all of them for B or everybody."""
    group, group_mac = solicited(B.ipv6)
    advert = IPv6Address(C.ipv6).packed
    router = ipv6(A.link_local, ALL_NODES, ICMPV6, icmpv6(A.link_local, ALL_NODES, 134, bytes(12)))
    redirect = icmpv6(A.link_local, B.ipv6, 137, bytes(4) + advert + advert)
    dhcp_server = udp(A.ipv4, "255.255.255.255", 67, 68, b"offer")
    dhcp_client = udp("0.0.0.0", "255.255.255.255", 68, 67, b"discover")
    dhcp6_server = udp(A.link_local, B.link_local, 547, 546, b"advertise")
    long_option = link_layer(1, A.mac) + link_layer(1, MALLORY)
    solicit = discovery(135, A.ipv6, group, B.ipv6, link_layer(1, MALLORY))[40:]
    hidden = struct.pack("!BBHI", ICMPV6, 0, 0, 1) + icmpv6(A.link_local, ALL_NODES, 134, bytes(12))
    jumbled = ipv6(A.link_local, ALL_NODES, FRAGMENT, struct.pack("!BBHI", 60, 0, 1, 9) + bytes([ICMPV6, 1] + [0] * 6))
    return {
        "another's MAC": frame(B.mac, C.mac, IPV4, ipv4(A.ipv4, C.ipv4, UDP, udp(A.ipv4, C.ipv4, 7, 7, b""))),
        "a made up MAC": frame(MALLORY, B.mac, IPV4, ipv4(A.ipv4, B.ipv4, UDP, udp(A.ipv4, B.ipv4, 7, 7, b""))),
        "the gateway's MAC": frame(GATEWAY_MAC, B.mac, IPV4, ipv4(A.ipv4, B.ipv4, ICMP, echo(b""))),
        "another's IPv4": frame(A.mac, B.mac, IPV4, ipv4(C.ipv4, B.ipv4, UDP, udp(C.ipv4, B.ipv4, 7, 7, b""))),
        "the gateway's IPv4": frame(A.mac, B.mac, IPV4, ipv4(GATEWAY, B.ipv4, ICMP, echo(b""))),
        "an address outside": frame(A.mac, B.mac, IPV4, ipv4("198.51.100.1", B.ipv4, ICMP, echo(b""))),
        "another's IPv6": frame(A.mac, B.mac, IPV6, ipv6(C.ipv6, B.ipv6, UDP, udp(C.ipv6, B.ipv6, 7, 7, b""))),
        "another's link-local IPv6": frame(
            A.mac, B.mac, IPV6, ipv6(C.link_local, B.ipv6, UDP, udp(C.link_local, B.ipv6, 7, 7, b""))
        ),
        "ARP: another's address": frame(A.mac, B.mac, ARP, arp(2, A.mac, C.ipv4, B.ipv4, B.mac)),
        "ARP: the gateway's address": frame(A.mac, BROADCAST, ARP, arp(1, A.mac, GATEWAY, GATEWAY)),
        "ARP: another's MAC": frame(A.mac, B.mac, ARP, arp(2, C.mac, A.ipv4, B.ipv4, B.mac)),
        "ARP: another's MAC in the header": frame(C.mac, B.mac, ARP, arp(2, A.mac, A.ipv4, B.ipv4, B.mac)),
        "ARP: a probe for nobody": frame(A.mac, BROADCAST, ARP, arp(1, A.mac, "0.0.0.0", C.ipv4)),
        "RARP": frame(A.mac, BROADCAST, 0x8035, arp(3, A.mac, A.ipv4, A.ipv4)),
        "ND: advertises another's address": frame(
            A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, C.ipv6, link_layer(2, A.mac))
        ),
        "ND: advertises the gateway's address": frame(
            A.mac, ALL_NODES_MAC, IPV6, discovery(136, A.ipv6, ALL_NODES, GATEWAY6, link_layer(2, A.mac))
        ),
        "ND: advertises another's MAC": frame(
            A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, A.ipv6, link_layer(2, C.mac))
        ),
        "ND: advertises in another's name": frame(A.mac, B.mac, IPV6, discovery(136, C.ipv6, B.ipv6, C.ipv6)),
        "ND: asks in another's name": frame(A.mac, group_mac, IPV6, discovery(135, C.ipv6, group, B.ipv6)),
        "ND: asks with another's MAC": frame(
            A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, link_layer(1, MALLORY))
        ),
        "ND: asks with two MACs": frame(A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, long_option)),
        "ND: claims that another's address is being taken": frame(
            A.mac, group_mac, IPV6, discovery(135, "::", group, B.ipv6)
        ),
        "ND: in a fragment": frame(A.mac, group_mac, IPV6, fragmented(A.ipv6, group, ICMPV6, solicit)),
        "ND: behind other headers": frame(
            A.mac, group_mac, IPV6, ipv6(A.ipv6, group, 0, bytes([ICMPV6, 0, 1, 4, 0, 0, 0, 0]) + solicit)
        ),
        "router advertisement": frame(A.mac, ALL_NODES_MAC, IPV6, router),
        "router advertisement in a fragment": frame(
            A.mac, ALL_NODES_MAC, IPV6, ipv6(A.link_local, ALL_NODES, FRAGMENT, hidden)
        ),
        "headers that go on in a later fragment": frame(A.mac, ALL_NODES_MAC, IPV6, jumbled),
        "redirect": frame(A.mac, B.mac, IPV6, ipv6(A.link_local, B.ipv6, ICMPV6, redirect)),
        "DHCP offer": frame(A.mac, BROADCAST, IPV4, ipv4(A.ipv4, "255.255.255.255", UDP, dhcp_server)),
        "DHCP discover": frame(A.mac, BROADCAST, IPV4, ipv4("0.0.0.0", "255.255.255.255", UDP, dhcp_client)),
        "DHCPv6 advertise": frame(A.mac, B.mac, IPV6, ipv6(A.link_local, B.link_local, UDP, dhcp6_server)),
        "a VLAN's tag": frame(A.mac, B.mac, VLAN, struct.pack("!HH", 5, IPV4) + honest(A, B)[14:]),
        "a VLAN's tag of number 0": frame(A.mac, B.mac, VLAN, struct.pack("!HH", 0, IPV4) + honest(A, B)[14:]),
        "spanning tree": frame(A.mac, "01:80:c2:00:00:00", 0x0026, b"\x42\x42\x03" + bytes(35)),
        "another protocol": frame(A.mac, BROADCAST, 0x88B5, bytes(46)),
    }


async def test_what_is_forged_is_dropped_and_counted(lan: Lan) -> None:
    a, b, c = lan.ports
    wrong = []
    for what, data in forgeries().items():
        before = await lan.forged()
        came = await lan.arriving(b, data, by=a)
        counted = await lan.forged() - before
        if came or counted != 1:
            wrong.append(f"{what}: {len(came)} arrived, {counted} counted")
    assert not wrong
    assert not set(c.drain()) & set(forgeries().values())
    assert await lan.forged("b") == await lan.forged("c") == 0
    # And nobody was led to believe anything: the gateway still answers the one whose address was taken.
    c.send(frame(C.mac, GATEWAY_MAC, IPV4, ipv4(C.ipv4, GATEWAY, ICMP, echo(b"still there"))))
    await c.receive_until(lambda data: b"still there" in data)


def is_honest(data: bytes) -> bool:
    """Whether a frame claims nothing but what A is; written without regard to how the filter does it."""
    mac = mac_bytes(A.mac)
    own6 = {IPv6Address(A.ipv6).packed, IPv6Address(A.link_local).packed}
    kind, packet = data[12:14], data[14:]
    if data[6:12] != mac:
        return False
    if kind == b"\x08\x06":
        return packet[8:14] == mac and packet[14:18] == IPv4Address(A.ipv4).packed
    if kind == b"\x08\x00":
        return packet[12:16] == IPv4Address(A.ipv4).packed
    if kind != b"\x86\xdd":
        return False
    source, message = packet[8:24], packet[40:]
    if packet[6] == ICMPV6 and message[0] in (134, 137):
        return False
    if packet[6] == ICMPV6 and message[0] == 135:
        end = 40 + int.from_bytes(packet[4:6])
        asks = source in own6 and packet[64:end] in (b"", b"\x01\x01" + mac)
        return asks or (source == bytes(16) and message[8:24] in own6)
    if packet[6] == ICMPV6 and message[0] == 136:
        end = 40 + int.from_bytes(packet[4:6])
        return source in own6 and message[8:24] in own6 and packet[64:end] in (b"", b"\x02\x01" + mac)
    return source in own6


async def test_of_frames_damaged_at_random_only_honest_ones_arrive(lan: Lan) -> None:
    a, b, c = lan.ports
    group, group_mac = solicited(B.ipv6)
    rules = random.Random(6)
    models = [
        *forgeries().values(),
        honest(A, B),
        honest6(A, B),
        frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, B.ipv4)),
        frame(A.mac, group_mac, IPV6, discovery(135, A.ipv6, group, B.ipv6, link_layer(1, A.mac))),
        frame(A.mac, B.mac, IPV6, discovery(136, A.ipv6, B.ipv6, A.ipv6, link_layer(2, A.mac))),
    ]
    arrived = 0
    for _ in range(60):
        sent = []
        for _ in range(50):
            damaged = bytearray(rules.choice(models))
            for _ in range(rules.randint(0, 3)):
                damaged[rules.randrange(len(damaged))] = rules.choice(
                    (0, 1, 2, 58, 134, 135, 136, 137, 255, rules.randrange(256))
                )
            sent.append(
                bytes(damaged[: rules.choice((len(damaged), len(damaged), rules.randrange(14, len(damaged) + 1)))])
            )
            a.send(sent[-1])
        came = await lan.arriving(b, *sent, by=a)
        arrived += len(came)
        dishonest = [data.hex() for data in (*came, *c.drain()) if data in sent and not is_honest(data)]
        assert dishonest == []
    assert arrived > 100, "the test would show nothing"
    assert await lan.forged() > 1000


async def test_a_flood_leaves_the_others_alone(lan: Lan) -> None:
    a, b, c = lan.ports
    flood = [*forgeries().values(), honest(A, C), frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, "203.0.113.77"))]

    async def keep_flooding() -> None:
        while True:
            for data in flood:
                a.send(data)
            c.drain()
            await asyncio.sleep(0)

    flooding = asyncio.create_task(keep_flooding())
    try:
        for number in range(20):
            ping = b"ping %d" % number
            b.send(frame(B.mac, GATEWAY_MAC, IPV4, ipv4(B.ipv4, GATEWAY, ICMP, echo(ping))))
            await b.receive_until(lambda data, ping=ping: ping in data)  # type: ignore[misc]
    finally:
        flooding.cancel()
    c.drain()
    assert await lan.arriving(c, honest(B, C), by=b)


async def test_a_conversation_reaches_no_third(lan: Lan) -> None:
    a, b, c = lan.ports
    c.drain()
    for _ in range(50):
        await lan.arriving(b, honest(A, B), honest6(A, B), by=a)
        await lan.arriving(a, honest(B, A), by=b)
    nobody = Host(MALLORY, "203.0.113.99", "2001:db8:5e6::99")
    a.send(honest(A, nobody))
    # A frame that names C's MAC as its own does not draw B's frames there.
    c.send(frame(A.mac, B.mac, IPV4, ipv4(C.ipv4, B.ipv4, ICMP, echo(b""))))
    assert await lan.arriving(a, honest(B, A), by=b)
    marker = honest(B, C, b"for c")
    b.send(marker)
    came = await c.receive_until(lambda data: data == marker)
    overheard = [data for data in came[:-1] if not data[0] & 1]
    assert overheard == []
    assert b"hello" not in b"".join(came)


async def test_isolated_containers_reach_the_gateway_only(directory: Path) -> None:
    async with make_lan(directory, isolated=True) as lan:
        a, b, _ = lan.ports
        by_way_of_the_gateway = frame(A.mac, GATEWAY_MAC, IPV4, honest(A, B)[14:])
        for data in (
            honest(A, B),
            honest6(A, B),
            frame(A.mac, BROADCAST, ARP, arp(1, A.mac, A.ipv4, B.ipv4)),
            by_way_of_the_gateway,
        ):
            a.send(data)
        for port, host in ((a, A), (b, B)):
            port.send(frame(host.mac, GATEWAY_MAC, IPV4, ipv4(host.ipv4, GATEWAY, ICMP, echo(b"answer me"))))
            came = await port.receive_until(lambda data: b"answer me" in data)
            assert b"hello" not in b"".join(came)


async def test_metadata_is_not_reached_unless_allowed(directory: Path) -> None:
    to_metadata = [
        frame(A.mac, B.mac, IPV4, ipv4(A.ipv4, "169.254.169.254", TCP, syn(A.ipv4, "169.254.169.254", 80))),
        frame(A.mac, B.mac, IPV6, ipv6(A.ipv6, "fd00:ec2::254", TCP, syn(A.ipv6, "fd00:ec2::254", 80))),
    ]
    async with make_lan(directory) as lan:
        a, b, _ = lan.ports
        assert await lan.arriving(b, *to_metadata, by=a) == []
        assert await lan.forged() == 0
        await lan.segment.configure(spec(reaches_metadata=True), lan.endpoints)
        assert await lan.arriving(b, *to_metadata, by=a) == to_metadata


async def test_the_gateway_takes_names_and_pings_only(lan: Lan) -> None:
    a, *_ = lan.ports
    for target in (GATEWAY, "127.0.0.1"):
        for port in (22, 80, 8053):
            a.send(frame(A.mac, GATEWAY_MAC, IPV4, ipv4(A.ipv4, target, TCP, syn(A.ipv4, target, port))))
            a.send(frame(A.mac, GATEWAY_MAC, IPV4, ipv4(A.ipv4, target, UDP, udp(A.ipv4, target, 7, port, b"x"))))
    a.send(frame(A.mac, GATEWAY_MAC, IPV4, ipv4(A.ipv4, GATEWAY, TCP, syn(A.ipv4, GATEWAY, 53))))
    came = await a.receive_until(lambda data: data[12:14] == b"\x08\x00" and data[23] == TCP)
    assert came[-1][34:36] == struct.pack("!H", 53)
    assert not [data for data in came[:-1] if data[12:14] == b"\x08\x00"]


async def test_links_outlive_the_segment_and_the_next_one_finds_them(lan: Lan) -> None:
    a, b, c = lan.ports
    await lan.arriving(b, forgeries()["another's IPv4"], by=a)
    segment = Process.of(lan.segment.pid)
    segment.kill(signal.SIGKILL)
    await lan.segment.wait_closed()
    assert await lan.arriving(b, honest(A, B), by=a)

    lan.segment = await start_segment(lan.directory, NETWORK_ID)
    assert lan.segment.pid != segment.pid
    await lan.segment.configure(spec(), lan.endpoints[:2])
    assert await lan.arriving(b, honest(A, B), honest6(A, B), by=a)
    counters = (await lan.segment.counters())["a"]
    assert counters.forged == 1, "what was counted is not lost"
    assert counters.sent_packets > 3
    # The third was removed while nobody was there to hear of it.
    with pytest.raises(OSError, match="Input/output error"):
        c.send(honest(C, B))
    await lan.segment.put(lan.endpoints[2])
    assert await lan.arriving(b, honest(C, B), by=c)


async def test_killed_at_any_moment_the_next_segment_puts_it_right(lan: Lan) -> None:
    a, b, c = lan.ports
    rules = random.Random(9)

    async def come_and_go() -> None:
        with suppress(VmFailed):
            while True:
                for endpoint in lan.endpoints:
                    await lan.segment.remove(endpoint.id)
                    await lan.segment.put(replace(endpoint, tap=""))
                    await lan.segment.plug(endpoint.id, endpoint.tap)

    for _ in range(8):
        moving = asyncio.create_task(come_and_go())
        await asyncio.sleep(rules.uniform(0, 0.12))
        Process.of(lan.segment.pid).kill(signal.SIGKILL)
        await moving
        lan.segment = await start_segment(lan.directory, NETWORK_ID)
        await lan.segment.configure(spec(), lan.endpoints)
        assert await lan.arriving(b, honest(A, B), *forgeries().values(), by=a) == [honest(A, B)]
        assert await lan.arriving(c, honest6(B, C), by=b)


async def test_configuring_again_changes_nothing(lan: Lan) -> None:
    a, b, _ = lan.ports
    for _ in range(3):
        await lan.segment.configure(spec(), lan.endpoints)
    assert await lan.arriving(b, honest(A, B), by=a)
    await lan.segment.configure(spec(mtu=1400, isolated=True), lan.endpoints)
    a.send(honest(A, B))
    b.send(frame(B.mac, GATEWAY_MAC, IPV4, ipv4(B.ipv4, GATEWAY, ICMP, echo(b"answer me"))))
    assert honest(A, B) not in await b.receive_until(lambda data: b"answer me" in data)


async def test_a_container_that_goes_leaves_its_tap_to_the_vm(lan: Lan) -> None:
    a, b, c = lan.ports
    await lan.segment.remove("a")
    assert "a" not in await lan.segment.counters()
    with pytest.raises(OSError, match="Input/output error"):
        a.send(honest(A, B))
    await lan.segment.remove("a")

    other_id = "07e" + NETWORK_ID[3:]
    other = await start_segment(lan.directory, other_id)
    try:
        await other.configure(spec(id=other_id), ())
        await other.put(Endpoint(id="a", mac=A.mac, ipv4=A.ipv4, ipv6=A.ipv6))
        await other.plug("a", a.name)
        a.send(honest(A, B))
        assert honest(A, B) not in (*b.drain(), *c.drain())
        assert (await other.counters())["a"].sent_packets > 0
        await other.remove("a")
    finally:
        await other.stop()
    await lan.segment.put(lan.endpoints[0])
    assert await lan.arriving(b, honest(A, B), by=a)


async def test_a_tap_that_is_not_there_is_said_so(lan: Lan) -> None:
    await lan.segment.put(Endpoint(id="d", mac="02:5e:60:00:00:09", ipv4="203.0.113.9"))
    with pytest.raises(NotFound, match=r"network device at000000\.0 is not there"):
        await lan.segment.plug("d", "at000000.0")
    with pytest.raises(NotFound, match="endpoint nobody is not on this network"):
        await lan.segment.plug("nobody", "at000000.0")
    assert set(await lan.segment.counters()) == set(NAMES)


async def test_counters_are_the_containers(lan: Lan) -> None:
    a, b, _ = lan.ports
    before = await lan.segment.counters()
    data = honest(A, B, bytes(1000))
    for _ in range(10):
        await lan.arriving(b, data, by=a)
    after = await lan.segment.counters()
    assert after["a"].sent_bytes - before["a"].sent_bytes >= 10 * len(data)
    assert after["a"].sent_packets - before["a"].sent_packets == 20
    assert after["b"].received_bytes - before["b"].received_bytes >= 10 * len(data)


async def test_a_trace_is_a_pcap_of_what_goes_over_the_bridge(lan: Lan) -> None:
    a, b, _ = lan.ports
    written = b""
    async with aclosing(lan.segment.trace()) as trace:
        written += await anext(trace)
        assert struct.unpack_from("=IHH", written) == (0xA1B23C4D, 2, 4)
        await lan.arriving(b, honest(A, B, b"traced"), forgeries()["another's MAC"], by=a)
        async with asyncio.timeout(5):
            async for piece in trace:
                written += piece
                if b"marker" in written:
                    break
    assert honest(A, B, b"traced") in written
    assert forgeries()["another's MAC"] not in written
    assert await lan.arriving(b, honest(A, B), by=a)


async def test_a_segment_ends_with_the_last_vm_when_there_is_no_engine(own_directory: Path) -> None:
    keeper = await start_keeper(own_directory)
    segment = await start_segment(own_directory, NETWORK_ID)
    (tap,) = await keeper.taps(1)
    await segment.configure(spec(), ())
    await segment.put(Endpoint(id="a", mac=A.mac, ipv4=A.ipv4, ipv6=A.ipv6))
    await segment.plug("a", tap.name)
    process = Process.of(segment.pid)
    await segment.close()
    await keeper.close()
    await asyncio.sleep(6)
    assert process.is_alive, "it is there for the VM's sake"
    os.close(tap.fd)
    await asyncio.to_thread(process.wait)


async def test_vms_keep_their_network_when_the_keeper_is_killed(own_directory: Path) -> None:
    async with make_lan(own_directory) as lan:
        a, b, c = lan.ports
        Process.of(lan.keeper.pid).kill(signal.SIGKILL)
        assert await lan.arriving(b, honest(A, B), by=a)
        await asyncio.sleep(0.2)
        with pytest.raises(Unavailable, match="keeper of networks was killed"):
            await lan.segment.plug("a", "at000000.0")
        assert await lan.arriving(c, honest(A, C), by=a)
        # With the last VM the segment goes, and the next one has all that it needs.
        for endpoint in lan.endpoints:
            await lan.segment.remove(endpoint.id)
        async with asyncio.timeout(10):
            await lan.segment.wait_closed()
        lan.segment = await start_segment(own_directory, NETWORK_ID)


async def test_many_ask_for_keeper_and_segment_at_once_and_get_the_same(own_directory: Path) -> None:
    segments = await asyncio.gather(*(start_segment(own_directory, NETWORK_ID) for _ in range(5)))
    keepers = await asyncio.gather(*(start_keeper(own_directory) for _ in range(5)))
    assert len({segment.pid for segment in segments}) == 1
    assert len({keeper.pid for keeper in keepers}) == 1
    await segments[0].stop()
    await asyncio.gather(*(keeper.close() for keeper in keepers))


async def test_who_waits_for_a_keeper_that_dies_is_told(own_directory: Path) -> None:
    keeper = await start_keeper(own_directory)
    Process.of(keeper.pid).kill(signal.SIGKILL)
    with pytest.raises(Unavailable, match="does not answer"):
        await keeper.taps(1)
    async with await start_keeper(own_directory) as another:
        (tap,) = await another.taps(1)
        os.close(tap.fd)


def test_all_of_it_holds_without_root() -> None:
    with tun_for_everybody():
        run = subprocess.run(
            [
                *AS_NOBODY, *python_for_everybody(),
                "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", CHECKOUT,
                # What takes long holds for both.
                "-k", "not without_root and not at_random and not any_moment and not flood", Path(__file__),
            ],
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "PYTHONDONTWRITEBYTECODE": "1",
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )  # fmt: skip
    print(run.stdout, run.stderr)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]


def python_for_everybody() -> list[str]:
    """An interpreter of our version that other users may run: ours may lie in root's home."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for path in (sys.executable, f"/usr/bin/python{version}"):
        # By way of a shell: setpriv itself still has root's privileges when it executes a program.
        if (
            subprocess.run([*AS_NOBODY, "sh", "-c", f"exec {path} -c ''"], capture_output=True, check=False).returncode
            == 0
        ):
            return [path]
    pytest.fail(f"no Python {version} may be run by everybody: install Debian's python3")
