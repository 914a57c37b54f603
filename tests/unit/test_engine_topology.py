from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from msgspec.structs import replace

from atoll.engine.address_plan import AnyNetwork, checked_subnet, free_address, host_routes
from atoll.engine.events import EventBus
from atoll.engine.network import NetworkRequest, NetworkTable
from atoll.engine.record import ContainerRecord
from atoll.engine.topology import Topology
from atoll.errors import AtollError, Conflict, InvalidRequest, NotFound
from atoll.model.container import ContainerConfig
from atoll.model.network import Network, NetworkWish, Subnet
from atoll.store import Database

POOLS = ("10.83.0.0/16",)


class World:
    """A topology, and the records of containers that may be on its networks."""

    def __init__(self, root: Path, pools: tuple[str, ...] = POOLS, routes: tuple[AnyNetwork, ...] = ()) -> None:
        self.records: dict[str, ContainerRecord] = {}
        self.events = EventBus()
        self.database = Database(root / "test.db")
        self.topology = Topology(
            NetworkTable(self.database), lambda: self.records.values(), self.events, pools, lambda: routes
        )

    def network(self, name: str = "reef", *subnets: Subnet, enable_ipv6: bool | None = None, **options: str) -> Network:
        return self.topology.create(
            NetworkRequest(name=name, subnets=subnets, enable_ipv6=enable_ipv6, options=options)
        )

    def container(self, container_id: str, *wishes: NetworkWish) -> ContainerRecord:
        config = ContainerConfig(image="busybox", image_id="sha256:0", hostname="h", networks=wishes)
        record = ContainerRecord(
            id=container_id,
            name=container_id,
            created_at=datetime.now(UTC),
            config=config,
            attachments=self.topology.attached(container_id, wishes),
        )
        self.records[container_id] = record
        return record


MakeWorld = Callable[..., World]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    worlds = []

    def make(**arguments: tuple[str, ...] | tuple[AnyNetwork, ...]) -> World:
        worlds.append(World(tmp_path, **arguments))  # type: ignore[arg-type]  # by name
        return worlds[-1]

    yield make
    for world in worlds:
        world.database.close()


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world()


def wish(network: str = "reef", ipv4: str = "", ipv6: str = "", mac: str = "") -> NetworkWish:
    return NetworkWish(network=network, ipv4=ipv4, ipv6=ipv6, mac=mac)


def test_three_networks_are_always_there(world: World) -> None:
    assert [(network.name, network.driver) for network in world.topology.all()] == [
        ("bridge", "bridge"),
        ("host", "host"),
        ("none", "null"),
    ]
    bridge = world.topology.get("bridge")
    assert bridge.ipv4 == Subnet(subnet="10.83.0.0/24", gateway="10.83.0.1")
    assert bridge.ipv6 is not None
    assert ip_network(bridge.ipv6.subnet).is_private


def test_networks_are_the_same_after_a_restart(make_world: MakeWorld) -> None:
    world = make_world()
    world.network()
    assert make_world().topology.all() == world.topology.all()


def test_networks_of_one_engine_are_of_one_site_also_after_a_restart(make_world: MakeWorld) -> None:
    first = make_world().topology.get("bridge").ipv6
    second = make_world().network().ipv6
    assert first is not None
    assert second is not None
    assert ip_network(first.subnet).supernet(new_prefix=48) == ip_network(second.subnet).supernet(new_prefix=48)


def test_a_network_is_found_by_name_id_and_the_beginning_of_an_id(world: World) -> None:
    made = world.network()
    assert [world.topology.get(reference) for reference in ("reef", made.id, made.id[:9])] == [made] * 3
    with pytest.raises(NotFound, match="network coral not found"):
        world.topology.get("coral")


@pytest.mark.parametrize("name", ["", "-reef", "a b", "a/b", "x" * 256])
def test_names_that_docker_does_not_take_are_refused(world: World, name: str) -> None:
    with pytest.raises(InvalidRequest, match="invalid network name"):
        world.network(name)


def test_a_name_is_taken_once(world: World) -> None:
    world.network()
    with pytest.raises(Conflict, match="network with name reef already exists"):
        world.network()


@pytest.mark.parametrize("name", ["bridge", "host", "none"])
def test_predefined_networks_can_be_neither_made_nor_removed(world: World, name: str) -> None:
    with pytest.raises(Conflict, match="predefined"):
        world.network(name)
    with pytest.raises(Conflict, match="pre-defined network and cannot be removed"):
        world.topology.remove(world.topology.get(name))


def test_a_new_network_gets_the_first_subnet_that_nobody_has(make_world: MakeWorld) -> None:
    world = make_world(routes=(ip_network("10.83.2.128/25"),))
    subnets = [network.ipv4.subnet for network in (world.network("a"), world.network("b")) if network.ipv4]
    assert subnets == ["10.83.3.0/24", "10.83.4.0/24"]


def test_pools_run_out(make_world: MakeWorld) -> None:
    world = make_world(pools=("10.83.0.0/24", "10.84.0.0/30"))
    with pytest.raises(Conflict, match="all predefined address pools have been fully subnetted"):
        world.network()


@pytest.mark.parametrize("subnet", ["10.83.0.128/25", "10.0.0.0/8"])
def test_a_subnet_that_another_network_has_is_refused(world: World, subnet: str) -> None:
    with pytest.raises(Conflict, match="Pool overlaps with other one on this address space"):
        world.network("reef", Subnet(subnet=subnet, gateway=""))


def test_a_subnet_can_be_given_with_gateway_and_range(world: World) -> None:
    network = world.network(
        "reef",
        Subnet(subnet="192.0.2.0/24", gateway="192.0.2.254", range="192.0.2.128/30"),
        Subnet(subnet="2001:db8::/64", gateway=""),
    )
    assert network.ipv4 == Subnet(subnet="192.0.2.0/24", gateway="192.0.2.254", range="192.0.2.128/30")
    assert network.ipv6 == Subnet(subnet="2001:db8::/64", gateway="2001:db8::1")
    got = [world.container(str(number), wish()).attachments[0].ipv4 for number in range(4)]
    assert got == ["192.0.2.128", "192.0.2.129", "192.0.2.130", "192.0.2.131"]
    with pytest.raises(Conflict, match="no available addresses"):
        world.container("5", wish())


@pytest.mark.parametrize(
    ("subnet", "message"),
    [
        (Subnet(subnet="192.0.2.1/24", gateway=""), "host bits"),
        (Subnet(subnet="reef", gateway=""), "invalid subnet"),
        (Subnet(subnet="192.0.2.0/31", gateway=""), "no room"),
        (Subnet(subnet="127.0.0.0/24", gateway=""), "not for networks"),
        (Subnet(subnet="", gateway="192.0.2.1"), "needs a subnet"),
        (Subnet(subnet="192.0.2.0/24", gateway="10.0.0.1"), "no matching subnet for gateway"),
        (Subnet(subnet="192.0.2.0/24", gateway="192.0.2.255"), "the subnet's own"),
        (Subnet(subnet="192.0.2.0/24", gateway="", range="10.0.0.0/30"), "no matching subnet for range"),
        (Subnet(subnet="192.0.2.0/24", gateway="", range="192.0.0.0/16"), "no matching subnet for range"),
    ],
)
def test_subnets_that_make_no_sense_are_refused(world: World, subnet: Subnet, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        world.network("reef", subnet)


def test_ipv6_can_be_left_out(world: World) -> None:
    assert world.network(enable_ipv6=False).ipv6 is None
    with pytest.raises(InvalidRequest, match="needs IPv6"):
        world.network("coral", Subnet(subnet="2001:db8::/64", gateway=""), enable_ipv6=False)


def test_options_are_dockers_mtu_and_ours(world: World) -> None:
    network = world.network("reef", isolate="true", metadata="allow", **{"com.docker.network.driver.mtu": "1400"})
    assert (network.mtu, network.isolated, network.reaches_metadata) == (1400, True, True)


@pytest.mark.parametrize("options", [{"mtu": "100"}, {"mtu": "1000"}, {"mtu": "x"}, {"isolate": "x"}, {"parent": "x"}])
def test_other_options_are_refused(world: World, options: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest, match=r"invalid (option|MTU)"):
        world.network("reef", **options)


def test_a_container_gets_an_address_of_each_kind_and_keeps_its_mac(world: World) -> None:
    network = world.network()
    first, second = (world.container(name, wish()).attachments[0] for name in ("1", "2"))
    assert (first.ipv4, second.ipv4) == ("10.83.2.2", "10.83.2.3")
    assert network.ipv6 is not None
    assert ip_address(second.ipv6) in ip_network(network.ipv6.subnet)
    assert first.mac.startswith("02:")
    assert first.mac != second.mac
    del world.records["1"]
    assert world.container("1", wish()).attachments[0].mac == first.mac


def test_an_address_that_was_given_back_is_the_last_to_be_given_again(world: World) -> None:
    world.network("reef", Subnet(subnet="192.0.2.0/29", gateway=""))
    given = []
    for number in range(7):
        given.append(world.container(str(number), wish()).attachments[0].ipv4)
        del world.records[str(number)]
    assert given == [f"192.0.2.{number}" for number in (2, 3, 4, 5, 6, 2, 3)]


def test_addresses_can_be_wished_for(world: World) -> None:
    world.network("reef", Subnet(subnet="192.0.2.0/24", gateway=""), Subnet(subnet="2001:db8::/64", gateway=""))
    got = world.container("1", wish(ipv4="192.0.2.77", ipv6="2001:db8::77", mac="06:00:00:00:00:01")).attachments[0]
    assert (got.ipv4, got.ipv6, got.mac) == ("192.0.2.77", "2001:db8::77", "06:00:00:00:00:01")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (wish(ipv4="192.0.2.77"), "Address already in use"),
        (wish(ipv4="192.0.2.1"), "Address already in use"),
        (wish(mac="06:00:00:00:00:01"), "already in use"),
        (wish(ipv4="10.0.0.1"), "no configured subnet contains IP address 10.0.0.1"),
        (wish(ipv4="192.0.2.255"), "the subnet's own address"),
        (wish(ipv6="2001:db8:1::1"), "no configured subnet contains IP address"),
        (wish("none"), "absence of any"),
        (wish("host"), "host network and to another"),
        (wish("coral"), "network coral not found"),
    ],
)
def test_wishes_that_cannot_come_true_are_refused(world: World, wanted: NetworkWish, message: str) -> None:
    world.network("reef", Subnet(subnet="192.0.2.0/24", gateway=""))
    world.container("1", wish(ipv4="192.0.2.77", mac="06:00:00:00:00:01"))
    with pytest.raises(AtollError, match=message):
        world.container("2", wish("bridge"), wanted)


def test_a_container_has_four_interfaces_at_most(world: World) -> None:
    names = [world.network(name).name for name in "abcde"]
    assert [it.slot for it in world.container("1", *map(wish, names[:4])).attachments] == [0, 1, 2, 3]
    with pytest.raises(Conflict, match="on 4 networks"):
        world.container("2", *map(wish, names))


def test_a_slot_that_is_free_is_given_first(world: World) -> None:
    names = [world.network(name).name for name in "abcd"]
    record = world.container("1", *map(wish, names[:3]))
    world.records["1"] = replace(record, attachments=(record.attachments[0], record.attachments[2]))
    assert world.topology.attachment("1", world.records["1"].attachments, wish("d")).slot == 1


def test_a_network_that_a_container_is_on_stays(world: World) -> None:
    network = world.network()
    world.container("1", wish())
    with pytest.raises(Conflict, match=r'network reef has active endpoints \(name:"1" id:"1"\)'):
        world.topology.remove(network)
    world.records.clear()
    world.topology.remove(network)
    assert [event.action for event in world.events.past(0, 2**63)] == ["create", "destroy"]


def test_the_hosts_routes_are_read_without_the_default_one() -> None:
    assert all(route.prefixlen for route in host_routes())


def test_a_subnet_gives_each_address_once_and_none_that_is_its_own() -> None:
    subnet = checked_subnet(Subnet(subnet="192.0.2.0/28", gateway=""), ())
    taken: list[str] = []
    while len(taken) < 13:
        taken.append(free_address(subnet, taken, taken[-1] if taken else ""))
    assert sorted(map(ip_address, taken)) == [ip_address(f"192.0.2.{number}") for number in range(2, 15)]
    with pytest.raises(Conflict):
        free_address(subnet, taken)


class AddressesStayUnique(RuleBasedStateMachine):
    """Containers come and go on networks that come and go; nobody ever has what another has."""

    names = st.sampled_from(("reef", "kelp", "shoal"))
    ids = st.sampled_from([str(number) for number in range(8)])
    last_byte = st.integers(0, 16)

    def __init__(self) -> None:
        super().__init__()
        # Not a fixture: a machine is made for each example.
        self.world = World.__new__(World)
        self.world.records, self.world.events = {}, EventBus()
        self.world.database = Database(Path(":memory:"))
        self.world.topology = Topology(
            NetworkTable(self.world.database), lambda: self.world.records.values(), self.world.events, POOLS, list
        )

    def teardown(self) -> None:
        self.world.records.clear()
        for network in self.world.topology.all():
            assert not self.world.topology.members(network.id)
        self.world.database.close()

    @rule(name=names, number=st.integers(0, 1))
    def make_network(self, name: str, number: int) -> None:
        with suppress(Conflict):
            self.world.network(name, Subnet(subnet=f"192.0.2.{number * 8}/29", gateway=""))

    @rule(name=names)
    def remove_network(self, name: str) -> None:
        with suppress(Conflict, NotFound):
            self.world.topology.remove(self.world.topology.get(name))

    @rule(container_id=ids, names=st.lists(names, max_size=3, unique=True), byte=last_byte, wants=st.booleans())
    def make_container(self, container_id: str, names: list[str], byte: int, wants: bool) -> None:
        if container_id not in self.world.records:
            wishes = [wish(name, ipv4=f"192.0.2.{byte}" if wants else "") for name in names]
            try:
                self.world.container(container_id, *wishes)
            except AtollError:
                assert container_id not in self.world.records

    @rule(container_id=ids)
    def remove_container(self, container_id: str) -> None:
        self.world.records.pop(container_id, None)

    @rule(container_id=ids, name=names)
    def connect(self, container_id: str, name: str) -> None:
        record = self.world.records.get(container_id)
        if record is not None:
            try:
                made = self.world.topology.attachment(container_id, record.attachments, wish(name))
            except AtollError:
                return
            self.world.records[container_id] = replace(record, attachments=(*record.attachments, made))

    @invariant()
    def nobody_has_what_another_has(self) -> None:
        for network in self.world.topology.all():
            members = [attachment for _, attachment in self.world.topology.members(network.id)]
            for have in ([it.ipv4 for it in members], [it.ipv6 for it in members], [it.mac for it in members]):
                assert len(have) == len(set(have))
            for attachment in members:
                assert network.ipv4 is not None
                assert ip_address(attachment.ipv4) in ip_network(network.ipv4.subnet)
                assert attachment.ipv4 != network.ipv4.gateway

    @invariant()
    def subnets_do_not_overlap(self) -> None:
        subnets = [ip_network(network.ipv4.subnet) for network in self.world.topology.all() if network.ipv4]
        assert not any(one.overlaps(other) for one in subnets for other in subnets if one is not other)


TestAddressesStayUnique = AddressesStayUnique.TestCase
TestAddressesStayUnique.settings = hypothesis_settings(max_examples=40, stateful_step_count=30, deadline=None)
