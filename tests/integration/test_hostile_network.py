"""A container that is root, has raw sockets and lies: what it forges is dropped and counted, and it hears nobody."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from harness import forge
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.networking import Addresses, addresses, forged_frames, make_probe_image, remove_all

_TIMES = 5
_MARK = b"a-mark-that-nobody-else-writes"
_GROUPS = ("ffffffffffff", "3333", "0100")
"""How the addresses of frames to more than one begin, in hex."""


class Crew(NamedTuple):
    """Three on one network: `mallory` lies, `alice` and `bob` talk."""

    mallory: Container
    alice: Container
    bob: Container


class Cast(NamedTuple):
    """Who they are, and the gateway's MAC."""

    mallory: Addresses
    alice: Addresses
    bob: Addresses
    gateway_mac: str


@pytest.fixture(scope="module")
def crew(networked: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    image = make_probe_image(networked, tmp_path_factory.mktemp("probe"))
    networked.atoll.ok("network", "create", "reef")
    names = Crew._fields
    ids = [
        networked.atoll.ok("run", "-d", "--network", "reef", "--name", name, image, "sleep", "100000") for name in names
    ]
    yield Crew(*(Container(container_id, networked) for container_id in ids))
    remove_all(networked)


@pytest.fixture(scope="module")
def cast(crew: Crew) -> Cast:
    gateway = addresses(crew.mallory, "reef").gateway
    ok(crew.mallory, "ping", "-c", "1", "-W", "5", gateway)
    shown = ok(crew.mallory, "ip", "neigh", "show", gateway)
    found = re.search(r"lladdr (\S+)", shown)
    assert found, shown
    return Cast(*(addresses(container, "reef") for container in crew), found[1])


def _udp(cast: Cast, **changed: str) -> str:
    """A datagram of mallory's to bob, honest but for what is `changed`."""
    fields = {"source": cast.mallory.mac, "from_ip": cast.mallory.ipv4, "to_ip": cast.bob.ipv4} | changed
    return forge.udp(
        fields["source"], cast.bob.mac, from_ip=fields["from_ip"], to_ip=fields["to_ip"], port=9, data=_MARK
    )


_FORGERIES: dict[str, Callable[[Cast], str]] = {
    "another's MAC": lambda cast: _udp(cast, source=cast.alice.mac),
    "nobody's MAC": lambda cast: _udp(cast, source="02:00:00:00:00:99"),
    "the gateway's MAC": lambda cast: _udp(cast, source=cast.gateway_mac),
    "another's IPv4": lambda cast: _udp(cast, from_ip=cast.alice.ipv4),
    "the gateway's IPv4": lambda cast: _udp(cast, from_ip=cast.alice.gateway),
    "an IPv4 from outside": lambda cast: _udp(cast, from_ip="198.51.100.80"),
    "another's IPv6": lambda cast: _udp(cast, from_ip=cast.alice.ipv6, to_ip=cast.bob.ipv6),
    "an IPv6 from outside": lambda cast: _udp(cast, from_ip="2001:db8:80::80", to_ip=cast.bob.ipv6),
    "another's link-local address": lambda cast: _udp(cast, from_ip="fe80::1", to_ip=cast.bob.ipv6),
    "ARP for another": lambda cast: forge.arp_reply(
        cast.mallory.mac, mac=cast.mallory.mac, ip=cast.alice.ipv4, to_mac=cast.bob.mac, to_ip=cast.bob.ipv4
    ),
    "ARP for the gateway": lambda cast: forge.arp_reply(
        cast.mallory.mac, mac=cast.mallory.mac, ip=cast.alice.gateway, to_mac=forge.BROADCAST, to_ip=cast.bob.ipv4
    ),
    "ARP with another's MAC inside": lambda cast: forge.arp_reply(
        cast.mallory.mac, mac=cast.alice.mac, ip=cast.mallory.ipv4, to_mac=cast.bob.mac, to_ip=cast.bob.ipv4
    ),
    "a neighbour advertisement for another": lambda cast: forge.neighbour_advertisement(
        cast.mallory.mac, cast.bob.mac, mac=cast.mallory.mac, ip=cast.alice.ipv6, to_ip=cast.bob.ipv6
    ),
    "a neighbour advertisement for the gateway": lambda cast: forge.neighbour_advertisement(
        cast.mallory.mac, "33:33:00:00:00:01", mac=cast.mallory.mac, ip=cast.alice.gateway_ipv6, to_ip="ff02::1"
    ),
    "a router advertisement": lambda cast: forge.router_advertisement(
        cast.mallory.mac, mac=cast.mallory.mac, from_ip=_link_local(cast.mallory.mac)
    ),
    "a DHCP server's offer": lambda cast: forge.dhcp_offer(cast.mallory.mac, from_ip=cast.mallory.ipv4),
    "an unknown protocol": lambda cast: forge.ethernet(cast.mallory.mac, cast.bob.mac, 0x88CC, _MARK),
    "a VLAN's tag": lambda cast: forge.ethernet(cast.mallory.mac, cast.bob.mac, 0x8100, b"\0\x05\x08\0" + _MARK),
}


@pytest.mark.parametrize("forgery", _FORGERIES)
def test_what_is_forged_is_dropped_and_counted(
    networked: EngineUnderTest, crew: Crew, cast: Cast, forgery: str
) -> None:
    before = forged_frames(networked, crew.mallory, "reef")
    frame = _FORGERIES[forgery](cast)
    with ThreadPoolExecutor() as pool:
        captures = [pool.submit(captured, container, 1.5) for container in (crew.alice, crew.bob)]
        sent = ok(crew.mallory, "probe", "send", "eth0", str(_TIMES), frame)
        seen = [line for capture in captures for line in capture.result()]
    assert sent == str(_TIMES)
    assert forged_frames(networked, crew.mallory, "reef") == before + _TIMES
    assert frame not in seen
    assert not [line for line in seen if _MARK.hex() in line]


def test_what_is_honest_arrives_and_is_not_counted(networked: EngineUnderTest, crew: Crew, cast: Cast) -> None:
    before = forged_frames(networked, crew.mallory, "reef")
    with ThreadPoolExecutor() as pool:
        capture = pool.submit(captured, crew.bob, 2.5)
        frames = (_udp(cast), _udp(cast, from_ip=cast.mallory.ipv6, to_ip=cast.bob.ipv6))
        for _ in range(10):
            ok(crew.mallory, "probe", "send", "eth0", "1", *frames)
        seen = capture.result()
    assert set(frames) <= set(seen)
    assert forged_frames(networked, crew.mallory, "reef") == before


def test_neighbours_believe_no_lie(crew: Crew, cast: Cast) -> None:
    for address in (cast.alice.ipv4, cast.alice.ipv6):
        ok(crew.bob, "ping6" if ":" in address else "ping", "-c", "1", "-W", "5", address)
    lies = [
        _FORGERIES[name](cast)
        for name in ("ARP for another", "ARP for the gateway", "a neighbour advertisement for another")
    ]
    ok(crew.mallory, "probe", "send", "eth0", "20", *lies)
    believed = dict(re.findall(r"(\S+) dev eth0 lladdr (\S+)", ok(crew.bob, "ip", "neigh")))
    assert (believed[cast.alice.ipv4], believed[cast.alice.ipv6]) == (cast.alice.mac, cast.alice.mac)
    assert believed.get(cast.alice.gateway, cast.gateway_mac) == cast.gateway_mac


def test_a_third_hears_nothing_of_a_conversation(crew: Crew, cast: Cast) -> None:
    listening = crew.bob.engine.atoll.start("exec", crew.bob.id, "probe", "echo", "9")
    try:
        with ThreadPoolExecutor() as pool:
            capture = pool.submit(captured, crew.mallory, 4.0)
            for _ in range(20):
                for address in (cast.bob.ipv4, cast.bob.ipv6):
                    crew.alice.exec("probe", "ask", address, "9", _MARK.decode())
            said = ok(crew.alice, "probe", "ask", cast.bob.ipv4, "9", _MARK.decode())
            # And now to mallory: she does listen.
            ok(crew.alice, "probe", "send", "eth0", "3", forge.udp(
                cast.alice.mac, cast.mallory.mac, from_ip=cast.alice.ipv4, to_ip=cast.mallory.ipv4, port=9, data=b"hear"
            ))  # fmt: skip
            seen = capture.result()
    finally:
        listening.kill()
        listening.communicate()
    assert said == _MARK.decode()
    assert not [line for line in seen if _MARK.hex() in line]
    own = cast.mallory.mac.replace(":", "")
    assert not [line for line in seen if not line.startswith((own, *_GROUPS))]


def test_a_flood_takes_nobody_away(networked: EngineUnderTest, crew: Crew, cast: Cast) -> None:
    before = forged_frames(networked, crew.mallory, "reef")
    frames = [
        _udp(cast, source=cast.alice.mac),
        _udp(cast, from_ip="198.51.100.80"),
        forge.udp(
            cast.mallory.mac, forge.BROADCAST, from_ip=cast.mallory.ipv4, to_ip="255.255.255.255", port=9, data=_MARK
        ),
        _FORGERIES["ARP for the gateway"](cast),
    ]
    flood = crew.mallory.engine.atoll.start("exec", crew.mallory.id, "probe", "flood", "eth0", "90", *frames)
    try:
        for address in (cast.bob.ipv4, cast.bob.gateway, cast.bob.ipv6, cast.bob.gateway_ipv6):
            ping = "ping6" if ":" in address else "ping"
            shown = ok(crew.alice, ping, "-c", "5", "-W", "5", "-i", "0.3", address)
            # Where the flood and the emulated processors fill the host, a packet may be lost.
            assert int(re.findall(r"(\d+) packets received", shown)[0]) >= 3
        assert crew.alice.exec("nslookup", "bob").code == 0
        assert flood.poll() is None, "the flood was over before the others had tried"
    finally:
        crew.mallory.exec("killall", "probe")
        flood.communicate(timeout=60)
    assert forged_frames(networked, crew.mallory, "reef") > before + 1000


def ok(container: Container, *command: str) -> str:
    """What a command in a container prints; it has to succeed."""
    done = container.exec(*command)
    assert done.code == 0, str(done)
    return done.stdout.strip()


def captured(container: Container, seconds: float) -> list[str]:
    """Every frame that came to a container's interface in that time, in hex."""
    return ok(container, "probe", "capture", "eth0", str(seconds)).splitlines()[1:]


def _link_local(mac: str) -> str:
    """The address that a kernel makes of a MAC."""
    parts = [int(part, 16) for part in mac.split(":")]
    parts = [parts[0] ^ 2, *parts[1:3], 0xFF, 0xFE, *parts[3:]]
    return "fe80::" + ":".join(f"{parts[i]:02x}{parts[i + 1]:02x}" for i in (0, 2, 4, 6))
