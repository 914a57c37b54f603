"""What a segment lets through: frames that a VM's tap sends, honest and forged, and who gets them.

Keeper and segment are processes, the VMs are played by the test. All of it is done as whoever runs the test, and once
more by a user without any privilege (test_segment.py).
"""

import asyncio
import random
import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from harness.ethernet import (
    ARP,
    BROADCAST,
    ICMP,
    ICMPV6,
    IPV4,
    IPV6,
    TCP,
    UDP,
    Host,
    arp,
    discovery,
    echo,
    frame,
    ipv4,
    ipv6,
    link_layer,
    mac_bytes,
    syn,
    udp,
)
from harness.lan import (
    GATEWAY,
    GATEWAY6,
    GATEWAY_MAC,
    A,
    B,
    C,
    Lan,
    honest,
    honest6,
    make_lan,
    spec,
)
from harness.lan_forgeries import MALLORY, forgeries, fragmented, solicited


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


async def test_isolated_containers_reach_the_gateway_only(lan_directory: Path) -> None:
    async with make_lan(lan_directory, isolated=True) as lan:
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


async def test_metadata_is_not_reached_unless_allowed(lan_directory: Path) -> None:
    to_metadata = [
        frame(A.mac, B.mac, IPV4, ipv4(A.ipv4, "169.254.169.254", TCP, syn(A.ipv4, "169.254.169.254", 80))),
        frame(A.mac, B.mac, IPV6, ipv6(A.ipv6, "fd00:ec2::254", TCP, syn(A.ipv6, "fd00:ec2::254", 80))),
    ]
    async with make_lan(lan_directory) as lan:
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
    refusals = [data for data in came[:-1] if data[12:14] == b"\x08\x00"]
    # All else is refused at once: ICMP, destination unreachable, administratively prohibited.
    assert [(data[23], data[34:36]) for data in refusals] == [(ICMP, b"\x03\x0d")] * 6
