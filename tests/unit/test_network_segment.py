"""A segment's order of parts, its ruleset as text, and the bytes of its messages."""

import struct
from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from atoll.errors import Conflict
from atoll.model.network import Counters, Endpoint, Network, PortBinding, SegmentSpec, Subnet
from atoll.network.segment import ruleset
from atoll.network.segment.bridge import bridge_mac
from atoll.network.segment.segment import Segment
from atoll.network.segment.trace import header, record

NETWORK = Network(
    id="5e6" * 21 + "0",
    name="lan",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    ipv4=Subnet("203.0.113.0/24", "203.0.113.1"),
    ipv6=Subnet("2001:db8::/64", "2001:db8::1"),
)
SPEC = SegmentSpec(network=NETWORK, uplink="none")
ENDPOINT = Endpoint(id="reef", mac="02:5e:60:00:00:02", ipv4="203.0.113.2", ipv6="2001:db8::2")
PORTS = (PortBinding(container_port=80, host_port=32_768),)


class FakePart:
    """A part that notes what it is asked, in one list with the others."""

    def __init__(self, name: str, asked: list[str]) -> None:
        self.name, self.asked = name, asked
        self.refuses = False
        self.ports: tuple[PortBinding, ...] | None = None

    async def configure(self, spec: SegmentSpec) -> None:
        self.asked.append(f"{self.name}.configure")

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...] | None:
        if self.refuses:
            raise Conflict("port is already allocated")
        self.asked.append(f"{self.name}.put {endpoint.id} {','.join(endpoint.names)} {endpoint.tap}".rstrip())
        return self.ports

    async def remove(self, endpoint_id: str) -> None:
        self.asked.append(f"{self.name}.remove {endpoint_id}")

    async def close(self) -> None:
        self.asked.append(f"{self.name}.close")

    async def drop_strangers(self) -> None:
        return None

    def has_tap(self, name: str) -> bool:
        return bool(name)

    def forged(self) -> dict[str, int]:
        return {"reef": 3}

    def counters(self) -> dict[str, Counters]:
        return {"reef": Counters(sent_packets=5)}


class FakeFilter(FakePart):
    def drop_strangers(self) -> None:  # type: ignore[override]
        return None


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def parts(asked: list[str]) -> list[FakePart]:
    return [FakePart("links", asked), FakeFilter("filter", asked), FakePart("names", asked), FakePart("ports", asked)]


@pytest.fixture
def segment(parts: list[FakePart]) -> Segment:
    links, frame_filter, *others = parts
    return Segment(links, frame_filter, others)  # type: ignore[arg-type]


async def test_parts_are_configured_in_their_order_and_closed_in_reverse(segment: Segment, asked: list[str]) -> None:
    await segment.configure(SPEC, ())
    assert asked == ["links.configure", "filter.configure", "names.configure", "ports.configure"]
    asked.clear()
    await segment.close()
    assert asked == ["ports.close", "names.close", "links.close", "filter.close"]


async def test_a_put_answers_what_ports_say(segment: Segment, parts: list[FakePart], asked: list[str]) -> None:
    parts[-1].ports = PORTS
    assert await segment.put(ENDPOINT) == PORTS
    assert asked == ["filter.put reef", "links.put reef", "names.put reef", "ports.put reef"]


async def test_what_one_part_refuses_the_others_take_back(
    segment: Segment, parts: list[FakePart], asked: list[str]
) -> None:
    parts[-1].refuses = True
    with pytest.raises(Conflict, match="already allocated"):
        await segment.put(ENDPOINT)
    assert asked[3:] == ["names.remove reef", "links.remove reef", "filter.remove reef"]


async def test_a_change_that_is_refused_leaves_what_was(
    segment: Segment, parts: list[FakePart], asked: list[str]
) -> None:
    await segment.put(Endpoint(id="reef", mac="", ipv4="", names=("old",)))
    await segment.plug("reef", "at000001.0")
    parts[-1].refuses = True
    asked.clear()
    with pytest.raises(Conflict):
        await segment.put(Endpoint(id="reef", mac="", ipv4="", names=("new",)))
    assert asked[:3] == [f"{name}.put reef new at000001.0" for name in ("filter", "links", "names")]
    assert asked[3:] == [f"{name}.put reef old at000001.0" for name in ("filter", "links", "names")]


async def test_who_is_not_named_is_removed(segment: Segment, asked: list[str]) -> None:
    await segment.put(ENDPOINT)
    await segment.put(Endpoint(id="tide", mac="", ipv4=""))
    asked.clear()
    await segment.configure(SPEC, (ENDPOINT,))
    assert [line for line in asked if "remove" in line] == [
        f"{name}.remove tide" for name in ("ports", "names", "links", "filter")
    ]


async def test_counters_are_those_of_devices_and_filter(segment: Segment) -> None:
    assert segment.counters() == {"reef": Counters(sent_packets=5, forged=3)}


def test_a_tap_without_ipv6_sends_none() -> None:
    rules = ruleset.added(Endpoint(id="reef", mac=ENDPOINT.mac, ipv4="203.0.113.2", tap="at000001.0"))
    assert "ip6 saddr { ::, fe80::5e:60ff:fe00:2 } drop" in rules
    assert "goto packets6" not in rules
    assert 'add element bridge atoll taps { "at000001.0" : goto from-at000001.0 }' in rules


def test_the_metadata_service_is_blocked_unless_the_network_reaches_it() -> None:
    assert ruleset.table(NETWORK).count("counter name metadata drop") == 2
    assert "counter name metadata drop" not in ruleset.table(replace(NETWORK, reaches_metadata=True))


def test_counters_are_named_after_taps() -> None:
    assert ruleset.tap_of_counter(ruleset.counter("at000001.0")) == "at000001.0"
    assert ruleset.tap_of_counter("metadata") == ""


def test_link_local_addresses_come_from_the_mac() -> None:
    assert ruleset.link_local("02:42:0a:53:00:02") == "fe80::42:aff:fe53:2"


def test_the_gateways_mac_is_the_networks_own() -> None:
    assert bridge_mac(NETWORK.id) == bridge_mac(NETWORK.id) != bridge_mac("another")
    assert bridge_mac(NETWORK.id).startswith("02:")


def test_a_pcap_begins_with_its_format() -> None:
    assert header() == struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1)
    assert record(b"frame", 1_000_000_007) == struct.pack("=IIII", 1, 7, 5, 5) + b"frame"
