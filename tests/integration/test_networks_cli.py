"""`network`, `port` and what `run` takes of them: our command, the real `docker` and docker-py, against one engine.

What goes over these networks is tested in `test_networks.py`.
"""

import json
import re
import signal
from collections.abc import Iterator
from contextlib import closing

import docker as docker_py
import pytest
from harness.command import Command
from harness.engine import EngineUnderTest
from harness.networking import remove_all

PCAP_HEAD_BYTES = 24


@pytest.fixture(params=["atoll", "docker"])
def command(request: pytest.FixtureRequest, engine: EngineUnderTest) -> Iterator[Command]:
    """Either command; the containers and networks that a test leaves are removed."""
    yield engine.atoll if request.param == "atoll" else engine.docker
    if names := engine.atoll.ok("ps", "-aq").split():
        engine.atoll.ok("rm", "-f", *names)
    engine.atoll.ok("network", "prune", "-f")


@pytest.fixture
def client(engine: EngineUnderTest) -> Iterator["docker_py.DockerClient"]:
    with closing(docker_py.DockerClient(base_url=f"unix://{engine.socket}", version="auto")) as client:
        yield client
        for container in client.containers.list(all=True):
            container.remove(force=True)
        client.networks.prune()


def inspected(command: Command, *line: str) -> "dict[str, object]":
    """The one object that `inspect` shows."""
    found = json.loads(command.ok(*line))
    assert len(found) == 1
    return dict(found[0])


def settings_of(command: Command, container: str) -> "dict[str, object]":
    """A container's NetworkSettings."""
    return dict(json.loads(command.ok("inspect", "-f", "{{json .NetworkSettings}}", container)))


def test_the_networks_that_are_always_there_are_listed_as_docker_does(command: Command) -> None:
    head, *rows = [re.split(r" {3,}", line.strip()) for line in command.ok("network", "ls").splitlines()]
    assert head == ["NETWORK ID", "NAME", "DRIVER", "SCOPE"]
    assert [row[1:] for row in rows] == [
        ["bridge", "bridge", "local"],
        ["host", "host", "local"],
        ["none", "null", "local"],
    ]
    assert all(re.fullmatch("[0-9a-f]{12}", row[0]) for row in rows)
    for name in ("bridge", "host", "none"):
        done = command("network", "rm", name)
        assert (done.code, "pre-defined" in done.stderr) == (1, True)


def test_a_network_is_made_shown_found_and_removed(command: Command) -> None:
    identity = command.ok(
        "network", "create", "--subnet", "10.99.0.0/16", "--gateway", "10.99.0.1", "--ip-range", "10.99.1.0/24",
        "--subnet", "fd99::/64", "--internal", "--label", "colour=red", "-o", "isolate=true", "reef",
    ).strip()  # fmt: skip
    shown = inspected(command, "network", "inspect", "reef")
    assert (shown["Id"], shown["Name"], shown["Internal"], shown["Driver"]) == (identity, "reef", True, "bridge")
    assert shown["IPAM"] == {
        "Driver": "default", "Options": None,
        "Config": [
            {"Subnet": "10.99.0.0/16", "IPRange": "10.99.1.0/24", "Gateway": "10.99.0.1"},
            {"Subnet": "fd99::/64", "Gateway": "fd99::1"},
        ],
    }  # fmt: skip
    assert (shown["Labels"], shown["Options"], shown["Containers"]) == ({"colour": "red"}, {"isolate": "true"}, {})
    for wanted in ("name=ree", f"id={identity[:8]}", "label=colour=red", "type=custom", "dangling=true"):
        assert command.ok("network", "ls", "-q", "--no-trunc", "--filter", wanted).strip() == identity
    assert inspected(command, "inspect", "reef")["Id"] == identity
    done = command("network", "create", "reef")
    assert (done.code, "network with name reef already exists" in done.stderr) == (1, True)
    assert command.ok("network", "rm", "reef").strip() == "reef"
    done = command("network", "rm", "reef")
    assert (done.code, "network reef not found" in done.stderr) == (1, True)


def test_unused_networks_are_pruned(command: Command) -> None:
    command.ok("network", "create", "used")
    command.ok("network", "create", "idle")
    command.ok("network", "create", "--label", "keep", "kept")
    command.ok("create", "--network", "used", "busybox", "true")
    assert command.ok("network", "prune", "-f", "--filter", "label!=keep").split() == ["Deleted", "Networks:", "idle"]
    done = command("network", "rm", "used")
    assert (done.code, "has active endpoints" in done.stderr) == (1, True)
    assert inspected(command, "network", "inspect", "bridge")["Name"] == "bridge"


def test_a_new_container_has_its_places_on_its_networks(command: Command) -> None:
    command.ok("network", "create", "--subnet", "10.98.0.0/16", "reef")
    container = command.ok(
        "create", "--name", "crab", "--network", "reef", "--ip", "10.98.0.77", "--network-alias", "claw",
        "--mac-address", "02:00:00:00:00:77", "-p", "127.0.0.1:8080:80", "-p", "9000-9001:9000-9001/udp", "--expose",
        "70", "busybox", "true",
    ).strip()  # fmt: skip
    networks = settings_of(command, "crab")["Networks"]
    assert isinstance(networks, dict)
    reef = networks["reef"]
    assert (reef["IPAddress"], reef["IPPrefixLen"], reef["MacAddress"], reef["Aliases"]) == (
        "10.98.0.77", 16, "02:00:00:00:00:77", ["claw"],
    )  # fmt: skip
    assert {"crab", "claw", container[:12]} <= set(reef["DNSNames"])
    shown = inspected(command, "inspect", "crab")
    host, config = shown["HostConfig"], shown["Config"]
    assert isinstance(host, dict)
    assert isinstance(config, dict)
    assert host["NetworkMode"] == "reef"
    assert host["PortBindings"]["80/tcp"] == [{"HostIp": "127.0.0.1", "HostPort": "8080"}]
    assert sorted(config["ExposedPorts"]) == ["70/tcp", "80/tcp", "9000/udp", "9001/udp"]
    assert command.ok("ps", "-aq", "--no-trunc", "--filter", "network=reef").strip() == container
    assert command.ok("ps", "-a", "--format", "{{.Networks}}{{.Ports}}").strip() == "reef"


def test_who_asks_for_no_network_is_on_bridge(command: Command) -> None:
    command.ok("create", "--name", "crab", "busybox", "true")
    networks = settings_of(command, "crab")["Networks"]
    assert isinstance(networks, dict)
    assert list(networks) == ["bridge"]
    assert networks["bridge"]["IPAddress"]
    assert command.ok("inspect", "-f", "{{.HostConfig.NetworkMode}}", "crab").strip() == "bridge"


def test_a_container_that_does_not_run_is_connected_and_disconnected(command: Command) -> None:
    command.ok("create", "--name", "crab", "busybox", "true")
    command.ok("network", "create", "--subnet", "10.97.0.0/16", "reef")
    command.ok("network", "connect", "--ip", "10.97.0.9", "--alias", "claw", "reef", "crab")
    networks = settings_of(command, "crab")["Networks"]
    assert isinstance(networks, dict)
    assert (list(networks), networks["reef"]["IPAddress"]) == (["bridge", "reef"], "10.97.0.9")
    command.ok("network", "disconnect", "bridge", "crab")
    networks = settings_of(command, "crab")["Networks"]
    assert isinstance(networks, dict)
    assert list(networks) == ["reef"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--network", "container:other"), "each container has a kernel of its own"),
        (("--network", "nosuch"), "network nosuch not found"),
        (("-p", "80/sctp"), "SCTP"),
        (("--mac-address", "ff:ff:ff:ff:ff:ff"), "is not that of one interface"),
    ],
)
def test_a_network_that_cannot_be_had_is_an_error_and_no_container(
    command: Command, flags: tuple[str, ...], words: str
) -> None:
    done = command("create", *flags, "busybox", "true")
    assert done.code != 0
    assert words in done.stderr
    assert command.ok("ps", "-aq") == ""


def test_docker_py_makes_networks_and_containers_on_them(client: "docker_py.DockerClient") -> None:
    pool = docker_py.types.IPAMPool(subnet="10.96.0.0/16", gateway="10.96.0.1")
    reef = client.networks.create("reef", driver="bridge", ipam=docker_py.types.IPAMConfig(pool_configs=[pool]))
    assert [network.name for network in client.networks.list(names=["reef"])] == ["reef"]
    container = client.containers.create(
        "busybox", ["true"], network="reef", ports={"80/tcp": ("127.0.0.1", 8080), "53/udp": None},
        networking_config={"reef": client.api.create_endpoint_config(ipv4_address="10.96.0.5", aliases=["claw"])},
    )  # fmt: skip
    networks = container.attrs["NetworkSettings"]["Networks"]
    assert (list(networks), networks["reef"]["IPAddress"]) == (["reef"], "10.96.0.5")
    assert container.attrs["HostConfig"]["PortBindings"]["53/udp"] == [{"HostIp": "", "HostPort": ""}]
    other = client.networks.create("other")
    other.connect(container, aliases=["pinch"])
    container.reload()
    assert list(container.attrs["NetworkSettings"]["Networks"]) == ["reef", "other"]
    other.disconnect(container)
    with pytest.raises(docker_py.errors.APIError, match="has active endpoints"):
        reef.remove()
    container.remove()
    reef.remove()
    with pytest.raises(docker_py.errors.NotFound):
        client.networks.get("reef")


@pytest.fixture(params=["atoll", "docker"])
def running(request: pytest.FixtureRequest, networked: EngineUnderTest) -> Iterator[Command]:
    """Either command, of an engine whose containers have networks; what a test leaves is removed."""
    yield networked.atoll if request.param == "atoll" else networked.docker
    remove_all(networked)


def test_published_ports_are_shown_while_the_container_runs(running: Command) -> None:
    running.ok(
        "run", "-d", "--name", "web", "-p", "8080:80", "-p", "127.0.0.1:7001-7002:7001-7002", "-p", "53/udp",
        "--expose", "70", "busybox", "sleep", "1000",
    )  # fmt: skip
    lines = running.ok("port", "web").splitlines()
    free = lines[0].rpartition(":")[2]
    assert lines == [
        f"53/udp -> 0.0.0.0:{free}", f"53/udp -> [::]:{free}", "80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080",
        "7001/tcp -> 127.0.0.1:7001", "7002/tcp -> 127.0.0.1:7002",
    ]  # fmt: skip
    assert running.ok("port", "web", "80").splitlines() == ["0.0.0.0:8080", "[::]:8080"]
    assert set(running.ok("ps", "--format", "{{.Ports}}").strip().split(", ")) == {
        "70/tcp", "127.0.0.1:7001-7002->7001-7002/tcp", "0.0.0.0:8080->80/tcp", "[::]:8080->80/tcp",
        f"0.0.0.0:{free}->53/udp", f"[::]:{free}->53/udp",
    }  # fmt: skip
    for wanted in ("publish=8080", "publish=7000-7001/tcp", "expose=70", "network=bridge"):
        assert running.ok("ps", "--format", "{{.Names}}", "--filter", wanted).strip() == "web", wanted
    assert running.ok("ps", "-q", "--filter", "publish=80") == ""
    running.ok("stop", "-t", "0", "web")
    assert running.ok("port", "web") == ""
    assert running.ok("ps", "-a", "--format", "{{.Ports}}").strip() == ""


def test_all_exposed_ports_are_published(running: Command) -> None:
    running.ok("run", "-d", "--name", "web", "-P", "--expose", "70-71", "busybox", "sleep", "1000")
    shown = [line.split()[0] for line in running.ok("port", "web").splitlines()]
    assert shown == ["70/tcp", "70/tcp", "71/tcp", "71/tcp"]


def test_a_network_tells_who_runs_on_it_and_how_much_went_over(running: Command) -> None:
    running.ok("network", "create", "--subnet", "10.95.0.0/24", "reef")
    identity = running.ok("run", "-d", "--name", "crab", "--network", "reef", "busybox", "sleep", "1000").strip()
    containers = inspected(running, "network", "inspect", "reef")["Containers"]
    assert isinstance(containers, dict)
    assert (containers[identity]["Name"], containers[identity]["IPv4Address"]) == ("crab", "10.95.0.2/24")
    running.ok("exec", "crab", "ping", "-c", "1", "-s", "1000", "-W", "5", "10.95.0.1")
    received, sent = running.ok("stats", "--no-stream", "--format", "{{.NetIO}}", "crab").strip().split(" / ")
    assert (received.endswith("kB"), sent.endswith("kB")) == (True, True)
    running.ok("stop", "-t", "0", "crab")
    assert inspected(running, "network", "inspect", "reef")["Containers"] == {}


def test_a_taken_port_is_exit_code_125(running: Command) -> None:
    running.ok("run", "-d", "-p", "8080:80", "busybox", "sleep", "1000")
    done = running("run", "--rm", "-p", "8080:80", "busybox", "true")
    assert (done.code, "port is already allocated" in done.stderr) == (125, True)


def test_a_trace_of_a_quiet_network_is_a_head_and_ends_well(networked: EngineUnderTest) -> None:
    networked.atoll.ok("network", "create", "--internal", "reef")
    with networked.atoll.start("network", "trace", "reef") as trace:
        assert trace.stdout is not None
        assert len(trace.stdout.read(PCAP_HEAD_BYTES)) == PCAP_HEAD_BYTES
        trace.send_signal(signal.SIGINT)
        assert trace.wait(10) == 0
    networked.atoll.ok("network", "rm", "reef")
    done = networked.atoll("network", "trace", "reef")
    assert (done.code, "network reef not found" in done.stderr) == (1, True)


def test_our_networks_have_what_docker_does_not(engine: EngineUnderTest) -> None:
    atoll = engine.atoll
    atoll.ok("network", "create", "--subnet-v6", "fd98::/64", "--mtu", "1400", "reef")
    config = json.loads(atoll.ok("network", "inspect", "-f", "{{json .IPAM.Config}}", "reef"))
    assert config[1]["Subnet"] == "fd98::/64"
    atoll.ok("create", "--name", "crab", "--network", "bridge", "--network", "reef:alias=a", "busybox", "true")
    atoll.ok("create", "--name", "hermit", "--egress", "domain=example.org", "busybox", "true")
    assert list(json.loads(atoll.ok("inspect", "-f", "{{json .NetworkSettings.Networks}}", "crab"))) == [
        "bridge", "reef",
    ]  # fmt: skip
    assert atoll.ok("inspect", "-f", "{{.HostConfig.Atoll.Egress}}", "hermit").strip() == "domain=example.org"
    atoll.ok("rm", "crab", "hermit")
    atoll.ok("network", "rm", "reef")
