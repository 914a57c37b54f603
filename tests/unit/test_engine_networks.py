import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from doubles.engine import ID, EngineWithoutVms, make
from doubles.segments import FIRST_FREE_PORT, MemorySegment
from msgspec.structs import replace

from atoll.engine.container import Container
from atoll.engine.guest_networks import host_gateway, interfaces, resolvers, wanted_ports
from atoll.engine.network import NetworkRequest
from atoll.engine.services import Services
from atoll.errors import AgentFailed, Conflict, NotFound, Unavailable
from atoll.model.container import ContainerConfig, ContainerState, RestartPolicy
from atoll.model.network import Endpoint, NetworkWish, PortBinding

OTHER = "b" * 64
WEB = PortBinding(container_port=80, host_port=8080)


@pytest.fixture
def engine(tmp_path: Path) -> EngineWithoutVms:
    return EngineWithoutVms(tmp_path)


@pytest.fixture
async def services(engine: EngineWithoutVms) -> AsyncIterator[Services]:
    async with engine.running() as services:
        yield services


def on(*names: str) -> tuple[NetworkWish, ...]:
    return tuple(NetworkWish(network=name) for name in names)


def segment_of(engine: EngineWithoutVms, name: str = "bridge") -> MemorySegment:
    return engine.host.segments[engine.networks.get(name).id]


def endpoints_of(engine: EngineWithoutVms, name: str = "bridge") -> dict[str, Endpoint]:
    return segment_of(engine, name).endpoints


def told(services: Services) -> list[tuple[str, str]]:
    return [(event.type, event.action) for event in services.events.past(0, 2**63) if event.type == "network"]


async def settled() -> None:
    """What was begun in the background is done."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_the_default_networks_segment_is_there_before_a_container_wants_it(
    engine: EngineWithoutVms, services: Services
) -> None:
    await settled()
    assert list(engine.host.segments) == [engine.networks.get("bridge").id]


async def test_a_container_that_runs_is_on_its_networks_with_its_taps(
    engine: EngineWithoutVms, services: Services
) -> None:
    await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge", "reef"))
    await container.start()
    (first, second) = container.record.attachments
    here, there = endpoints_of(engine)[ID], endpoints_of(engine, "reef")[ID]
    taps = engine.launcher.runtimes[ID].taps
    assert (here.tap, here.ipv4, here.mac) == (taps[0], first.ipv4, first.mac)
    assert (there.tap, there.ipv4, there.mac) == (taps[1], second.ipv4, second.mac)
    assert here.names == ("reef", ID[:12], "h")
    engine.launcher.runtimes[ID].end(0)
    assert await container.wait("not-running") == 0
    await settled()
    assert endpoints_of(engine) == endpoints_of(engine, "reef") == {}
    assert told(services) == [("network", "create")] + [("network", "connect")] * 2 + [("network", "disconnect")] * 2


async def test_a_container_keeps_its_addresses_from_start_to_start(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, networks=on("bridge"))
    seen = set()
    for _ in range(2):
        await container.start()
        seen.add(endpoints_of(engine)[ID].ipv4)
        await container.stop()
    assert len(seen) == 1


async def test_ports_are_published_and_free_again_when_the_end_is_told(
    engine: EngineWithoutVms, services: Services
) -> None:
    chosen = PortBinding(container_port=81)
    container = await make(services, networks=on("bridge"), ports=(WEB, chosen))
    await container.start()
    assert container.record.published == (WEB, replace(chosen, host_port=FIRST_FREE_PORT))
    await container.stop()
    assert container.record.published == ()
    other = await make(services, name="coral", container_id=OTHER, networks=on("bridge"), ports=(WEB,))
    await other.start()


async def test_who_gets_the_address_of_a_container_that_ended_waits_for_its_vm_to_be_gone(
    engine: EngineWithoutVms, services: Services
) -> None:
    wish = NetworkWish(network="bridge", ipv4="10.83.0.77")
    container = await make(services, networks=(wish,), auto_remove=True)
    await container.start()
    engine.launcher.may_go.clear()
    engine.launcher.runtimes[ID].end(0)
    await container.wait("removed")
    # Nobody finds it any more, and its VM still has its tap.
    assert endpoints_of(engine)[ID].names == ()
    assert endpoints_of(engine)[ID].tap
    other = await make(services, name="coral", container_id=OTHER, networks=(wish,))
    starting = asyncio.ensure_future(other.start())
    await settled()
    assert OTHER not in endpoints_of(engine)
    engine.launcher.may_go.set()
    await starting
    assert list(endpoints_of(engine)) == [OTHER]


async def test_locks_of_networks_that_are_no_more_are_removed(engine: EngineWithoutVms) -> None:
    stray = engine.paths.networks / "0123456789ab.lock"
    stray.touch()
    kept = engine.paths.networks / "keeper.lock"
    kept.touch()
    async with engine.running():
        await settled()
    assert (stray.exists(), kept.exists()) == (False, True)


async def test_segments_that_nobody_uses_end_with_the_engine(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await settled()
    assert engine.host.segments == {}
    async with engine.running() as services:
        await (await make(services, networks=on("bridge"))).start()
    assert len(engine.host.segments) == 1


async def test_after_the_keeper_was_killed_segments_without_vms_are_made_anew(
    engine: EngineWithoutVms, services: Services
) -> None:
    await settled()
    container = await make(services, networks=on("bridge"))
    engine.host.kill_keeper()
    await container.start()
    assert (engine.host.starts, engine.host.keepers) == (2, 2)
    engine.host.kill_keeper()
    await (await make(services, name="coral", container_id=OTHER, networks=on("bridge"))).start()
    assert (engine.host.starts, engine.host.keepers) == (2, 3)


async def test_a_port_that_is_taken_fails_the_start_before_anything_runs(
    engine: EngineWithoutVms, services: Services
) -> None:
    engine.host.foreign_ports.add((8080, "tcp"))
    await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge", "reef"), ports=(WEB,))
    with pytest.raises(Conflict, match="port is already allocated"):
        await container.start()
    assert container.record.state is ContainerState.CREATED
    assert "port is already allocated" in container.record.error
    assert endpoints_of(engine) == endpoints_of(engine, "reef") == {}
    await asyncio.sleep(0.01)
    assert engine.launcher.runtimes == {}
    engine.host.foreign_ports.clear()
    await container.start()


async def test_a_start_that_fails_leaves_the_networks(engine: EngineWithoutVms, services: Services) -> None:
    engine.launcher.start_error = AgentFailed("no")
    container = await make(services, networks=on("bridge"), ports=(WEB,))
    with pytest.raises(AgentFailed):
        await container.start()
    engine.launcher.launch_error = AgentFailed("no")
    with pytest.raises(AgentFailed):
        await container.start()
    assert endpoints_of(engine) == {}
    assert container.record.published == ()


async def test_a_tap_that_is_lost_fails_the_start_and_ends_the_vm(engine: EngineWithoutVms, services: Services) -> None:
    container = await make(services, networks=on("bridge"))
    engine.host.lost_taps.add(f"at{ID[:6]}.0")
    with pytest.raises(NotFound):
        await container.start()
    assert engine.launcher.runtimes == {}
    assert endpoints_of(engine) == {}


async def test_nothing_of_a_container_runs_before_it_is_connected(engine: EngineWithoutVms, services: Services) -> None:
    container = await make(services, networks=on("bridge"))
    engine.host.may_plug.clear()
    starting = asyncio.ensure_future(container.start())
    await settled()
    assert engine.launcher.runtimes[ID].started_at is None
    engine.host.may_plug.set()
    await starting
    assert endpoints_of(engine)[ID].tap
    assert engine.launcher.runtimes[ID].started_at is not None


async def test_why_a_vm_failed_is_told_and_not_that_its_tap_has_gone_with_it(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, networks=on("bridge"))
    engine.launcher.start_error = AgentFailed("the guest has no memory")
    engine.host.lost_taps.add(f"at{ID[:6]}.0")
    with pytest.raises(AgentFailed, match="no memory"):
        await container.start()


async def test_without_a_tun_device_only_containers_without_networks_start(
    engine: EngineWithoutVms, services: Services
) -> None:
    await settled()
    engine.host.kill_segment(segment_of(engine))
    engine.host.keeper_error = Unavailable("/dev/net/tun cannot be opened")
    assert "--network none" in await engine.networks.problem()
    container = await make(services, networks=on("bridge"))
    with pytest.raises(Unavailable, match="/dev/net/tun"):
        await container.start()
    await (await make(services, name="coral", container_id=OTHER)).start()


async def test_a_killed_segment_comes_back_with_all_that_was_on_it(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, networks=on("bridge"), ports=(WEB, PortBinding(container_port=81)))
    await container.start()
    before = endpoints_of(engine).copy()
    engine.host.kill_segment(segment_of(engine))
    await settled()
    assert endpoints_of(engine) == before
    assert engine.host.starts == 2


async def test_a_port_that_was_taken_meanwhile_is_lost_and_nothing_else(
    engine: EngineWithoutVms, services: Services
) -> None:
    await (await make(services, networks=on("bridge"), ports=(WEB,))).start()
    await (await make(services, name="coral", container_id=OTHER, networks=on("bridge"))).start()
    engine.host.foreign_ports.add((8080, "tcp"))
    engine.host.kill_segment(segment_of(engine))
    await settled()
    assert {key: endpoint.ports for key, endpoint in endpoints_of(engine).items()} == {ID: (), OTHER: ()}
    assert all(endpoint.tap for endpoint in endpoints_of(engine).values())


async def test_a_segment_that_is_killed_during_a_start_does_not_fail_it(
    engine: EngineWithoutVms, services: Services
) -> None:
    await settled()
    container = await make(services, networks=on("bridge"), ports=(WEB,))
    engine.host.may_answer.clear()
    starting = asyncio.ensure_future(container.start())
    await settled()
    engine.host.kill_segment(segment_of(engine))
    engine.host.may_answer.set()
    await starting
    assert endpoints_of(engine)[ID].ports == (WEB,)
    assert endpoints_of(engine)[ID].tap


async def test_a_killed_engine_finds_ports_taps_and_names_again(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await engine.networks.create(NetworkRequest(name="reef"))
        first = await make(services, networks=on("bridge", "reef"), ports=(PortBinding(container_port=80),))
        await first.start()
        await (await make(services, name="coral", container_id=OTHER, networks=on("reef"))).start()
        await settled()
        before = [endpoints_of(engine).copy(), endpoints_of(engine, "reef").copy()]
        published = first.record.published
        engine.launcher.may_go.set()
    async with engine.running() as services:
        await settled()
        assert [endpoints_of(engine), endpoints_of(engine, "reef")] == before
        assert services.registry.get(ID).record.published == published
        await services.registry.get(ID).stop()
        await settled()
        assert endpoints_of(engine) == {}


async def test_a_container_that_ended_without_an_engine_is_on_no_network(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await (await make(services, networks=on("bridge"), ports=(WEB,))).start()
    engine.launcher.runtimes[ID].end(0)
    async with engine.running() as services:
        await settled()
        assert services.registry.get(ID).record.published == ()
        assert endpoints_of(engine) == {}


async def test_who_is_on_several_networks_hears_of_neighbours_at_once(
    engine: EngineWithoutVms, services: Services
) -> None:
    await engine.networks.create(NetworkRequest(name="reef"))
    await (await make(services, name="both", networks=on("bridge", "reef"))).start()
    coral = await make(services, name="coral", container_id=OTHER, networks=on("reef"))
    await coral.start()
    await settled()
    address = coral.record.attachments[0].ipv4
    assert endpoints_of(engine)[ID].foreign_names["coral"][0] == address
    assert "coral" not in endpoints_of(engine, "reef")[ID].foreign_names
    coral.rename("kelp")
    await settled()
    assert endpoints_of(engine, "reef")[OTHER].names[0] == "kelp"
    assert "coral" not in endpoints_of(engine)[ID].foreign_names
    assert endpoints_of(engine)[ID].foreign_names["kelp"][0] == address
    await coral.stop()
    await settled()
    assert endpoints_of(engine)[ID].foreign_names == {}


async def test_a_running_container_is_connected_and_disconnected(engine: EngineWithoutVms, services: Services) -> None:
    reef = await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge"), ports=(PortBinding(container_port=80),))
    await container.start()
    published = container.record.published
    await engine.networks.connect("reef", container, NetworkWish(network="reef", aliases=("rock",)))
    runtime = engine.launcher.runtimes[ID]
    endpoint = endpoints_of(engine, "reef")[ID]
    assert endpoint.tap == runtime.taps[1]
    assert "rock" in endpoint.names
    assert [interface.name for interface in runtime.interfaces.values()] == ["eth1"]
    assert reef.ipv4 is not None
    assert reef.ipv4.gateway.encode() in runtime.files["/etc/resolv.conf"]
    assert [it.name for it, _ in engine.networks.containers(reef.id)] == ["reef"]
    with pytest.raises(Conflict, match="already attached"):
        await engine.networks.connect("reef", container, NetworkWish(network="reef"))
    await engine.networks.disconnect("bridge", container, force=False)
    assert endpoints_of(engine) == {}
    # The way out is the other network's now, and so are the ports.
    assert endpoints_of(engine, "reef")[ID].ports == container.record.published == published
    (eth1,) = runtime.interfaces.values()
    assert reef.ipv4.gateway in eth1.gateways
    with pytest.raises(Conflict, match="is not connected to network bridge"):
        await engine.networks.disconnect("bridge", container, force=False)


async def test_an_engine_that_was_killed_while_it_connected_leaves_that_to_the_next(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await engine.networks.create(NetworkRequest(name="reef"))
        container = await make(services, networks=on("bridge"))
        await container.start()
        engine.host.may_answer.clear()
        connecting = engine.networks.connect("reef", container, NetworkWish(network="reef"))
        services.tasks.spawn(connecting, "connecting")
        await settled()
        left = services.table.all()
        engine.host.may_answer.set()
    async with engine.running() as services:
        pass
    assert left[0].is_rewired
    async with engine.running() as services:
        # What the killed one had saved, and no more.
        services.table.update(left[0])
    async with engine.running() as services:
        await settled()
        assert not services.registry.get(ID).record.is_rewired
        interfaces = engine.launcher.runtimes[ID].interfaces.values()
        assert sorted(interface.name for interface in interfaces) == ["eth0", "eth1"]
        assert endpoints_of(engine, "reef")[ID].tap == engine.launcher.runtimes[ID].taps[1]


async def test_connecting_that_fails_changes_nothing(engine: EngineWithoutVms, services: Services) -> None:
    await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge"), ports=(WEB,))
    await container.start()
    before = container.record
    engine.host.lost_taps.add(engine.launcher.runtimes[ID].taps[1])
    with pytest.raises(NotFound):
        await engine.networks.connect("reef", container, NetworkWish(network="reef", gateway_priority=1))
    assert container.record == before
    assert endpoints_of(engine, "reef") == {}
    assert endpoints_of(engine)[ID].ports == (WEB,)
    assert endpoints_of(engine)[ID].tap


async def test_a_container_that_is_created_is_connected_at_its_start(
    engine: EngineWithoutVms, services: Services
) -> None:
    await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge"))
    await engine.networks.connect("reef", container, NetworkWish(network="reef"))
    await engine.networks.disconnect("bridge", container, force=False)
    assert [it.slot for it in container.record.attachments] == [1]
    await container.start()
    assert endpoints_of(engine, "reef")[ID].tap == engine.launcher.runtimes[ID].taps[1]


async def test_a_network_with_a_container_stays_and_one_without_goes_with_its_segment(
    engine: EngineWithoutVms, services: Services
) -> None:
    reef = await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("reef"))
    await container.start()
    with pytest.raises(Conflict, match="has active endpoints"):
        await engine.networks.remove("reef")
    assert await engine.networks.prune(lambda _: False) == []
    await container.remove(force=True)
    assert await engine.networks.prune(lambda _: False) == [reef]
    assert reef.id not in engine.host.segments
    assert engine.host.forgotten == [reef.id]


async def test_counters_are_told_by_interface(engine: EngineWithoutVms, services: Services) -> None:
    await engine.networks.create(NetworkRequest(name="reef"))
    container = await make(services, networks=on("bridge", "reef"))
    assert await engine.networks.counters(container) == {}
    await container.start()
    assert list(await engine.networks.counters(container)) == ["eth0", "eth1"]
    assert [piece async for piece in engine.networks.trace("bridge")] == [b"pcap"]


async def test_a_restart_by_policy_publishes_again(engine: EngineWithoutVms, services: Services) -> None:
    policy = RestartPolicy(name="always")
    container = await make(services, networks=on("bridge"), ports=(WEB,), restart=policy)
    await container.start()
    engine.launcher.runtimes[ID].end(1)
    await engine.launcher.has_launched(2)
    await settled()
    assert endpoints_of(engine)[ID].ports == (WEB,)
    await container.remove(force=True)


async def test_the_way_out_is_the_first_network_that_is_not_internal(
    engine: EngineWithoutVms, services: Services
) -> None:
    await engine.networks.create(NetworkRequest(name="inside", internal=True))
    reef = await engine.networks.create(NetworkRequest(name="reef", enable_ipv6=False, mtu=1400))
    container: Container = await make(services, networks=on("inside", "reef", "bridge"))
    network_of = services.topology.get
    eth0, eth1, eth2 = interfaces(container.record, network_of)
    bridge = engine.networks.get("bridge")
    assert reef.ipv4 is not None
    assert bridge.ipv6 is not None
    assert (eth0.gateways, eth1.gateways, eth2.gateways) == ((), (reef.ipv4.gateway,), (bridge.ipv6.gateway,))
    assert (eth1.name, eth1.mtu, len(eth0.addresses), len(eth1.addresses)) == ("eth1", 1400, 2, 1)
    assert eth1.addresses[0].endswith("/24")
    assert resolvers(container.record, network_of)[0] == reef.ipv4.gateway
    assert host_gateway(container.record, network_of) == reef.ipv4.gateway


def test_all_exposed_ports_are_published_on_demand() -> None:
    config = ContainerConfig(
        image="i", image_id="i", hostname="h", ports=(WEB,), exposed=("80/tcp", "53/udp", "53"), publish_all=True
    )
    assert wanted_ports(config) == (
        WEB,
        PortBinding(container_port=53, protocol="udp"),
        PortBinding(container_port=53),
    )
    assert wanted_ports(replace(config, publish_all=False)) == (WEB,)
