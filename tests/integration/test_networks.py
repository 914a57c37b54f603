"""Networks as a user meets them: names, ways out, ports, connecting and disconnecting, with root and without."""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness.command import Finished
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import build_probe, nginx_root
from harness.internet import HOST, Outside
from harness.internet_services import ECHO_PORT, METADATA, OTHER_WEB, WEB
from harness.networking import Addresses, addresses, make_probe_image, remove_all

Start = Callable[..., Container]
_SETTLE_S = 10.0


@pytest.fixture(scope="module")
def probe(networked: EngineUnderTest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with busybox and `probe`."""
    return make_probe_image(networked, tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="module")
def nginx(networked: EngineUnderTest) -> str:
    """Debian with nginx."""
    tar = Path(shutil.copy(nginx_root(), networked.root))
    tar.chmod(0o644)
    networked.atoll.ok("image", "import", tar, "nginx:bookworm")
    tar.unlink()
    return "nginx:bookworm"


@pytest.fixture
def start(networked: EngineUnderTest, probe: str) -> Iterator[Start]:
    """Starts containers of `probe` that sleep; they and the networks that a test makes are removed."""

    def start(*flags: str, command: tuple[str, ...] = ("sleep", "100000")) -> Container:
        return Container(networked.atoll.ok("run", "-d", *flags, probe, *command), networked)

    yield start
    remove_all(networked)


@pytest.fixture
def network(networked: EngineUnderTest, start: Start) -> str:
    """A network named `reef`."""
    networked.atoll.ok("network", "create", "reef")
    return "reef"


def test_two_containers_find_each_other_by_name(start: Start, network: str) -> None:
    start("--network", network, "--name", "shark")
    squid = start("--network", network, "--network-alias", "ink", "--name", "squid")
    for name in ("shark", "squid", "ink"):
        assert ok(squid, "ping", "-c", "1", "-W", "5", name)
        assert ok(squid, "ping6", "-c", "1", "-W", "5", name)


def test_a_name_is_an_address_and_an_address_a_name(start: Start, network: str) -> None:
    shark = start("--network", network, "--name", "shark")
    squid = start("--network", network)
    there = addresses(shark, network)
    assert there.ipv4 in ok(squid, "nslookup", "-type=a", "shark")
    assert there.ipv6 in ok(squid, "nslookup", "-type=aaaa", "shark")
    assert "shark" in ok(squid, "nslookup", there.ipv4)
    assert "shark" in ok(squid, "nslookup", there.ipv6)


def test_names_of_another_network_are_unknown(networked: EngineUnderTest, start: Start, network: str) -> None:
    networked.atoll.ok("network", "create", "shore")
    shark = start("--network", network, "--name", "shark")
    crab = start("--network", "shore", "--name", "crab")
    assert crab.exec("nslookup", "shark").code != 0
    assert crab.exec("ping", "-c", "1", "-W", "2", addresses(shark, network).ipv4).code != 0
    assert crab.exec("ping6", "-c", "1", "-W", "2", addresses(shark, network).ipv6).code != 0


def test_a_container_on_three_networks_has_an_interface_on_each(networked: EngineUnderTest, start: Start) -> None:
    for name in ("one", "two", "three"):
        networked.atoll.ok("network", "create", name)
        start("--network", name, "--name", f"on-{name}")
    all_three = start("--network", "one", "--network", "two", "--network", "three")
    shown = ok(all_three, "ip", "-4", "address")
    for number, name in enumerate(("one", "two", "three")):
        assert f"eth{number}" in shown
        assert addresses(all_three, name).ipv4 in shown
        assert ok(all_three, "ping", "-c", "1", "-W", "5", f"on-{name}")


def test_address_mac_and_alias_are_what_was_asked_for(networked: EngineUnderTest, start: Start) -> None:
    networked.atoll.ok("network", "create", "--subnet", "10.99.7.0/24", "--subnet-v6", "fd99:7::/64", "atoll")
    wanted = "atoll:ip=10.99.7.77,ip6=fd99:7::77,mac=02:11:22:33:44:55,alias=lagoon"
    container = start("--network", wanted)
    assert addresses(container, "atoll") == Addresses(
        "02:11:22:33:44:55", "10.99.7.77", "fd99:7::77", "10.99.7.1", "fd99:7::1"
    )
    shown = ok(container, "ip", "address", "show", "eth0")
    for part in ("02:11:22:33:44:55", "10.99.7.77/24", "fd99:7::77/64"):
        assert part in shown
    assert ok(start("--network", "atoll"), "ping", "-c", "1", "-W", "5", "lagoon")


def test_the_outside_is_reached_from_an_ordinary_network(start: Start, network: str) -> None:
    container = start("--network", network)
    assert ok(container, "probe", "get", WEB[0], "/") == HOST[0]
    assert ok(container, "probe", "get", resolved(container, "web.example"), "/") in HOST
    assert ok(container, "probe", "get", WEB[1], "/") == HOST[1]
    assert ok(container, "probe", "ask", WEB[0], str(ECHO_PORT), "ahoy") == "ahoy"


def test_the_default_network_is_there_without_asking(start: Start) -> None:
    assert ok(start(), "probe", "get", WEB[0], "/") == HOST[0]


def test_a_big_answer_comes_whole(networked: EngineUnderTest, start: Start, network: str, nginx: str) -> None:
    # Its libc asks again over TCP.
    shown = networked.atoll.ok("run", "--rm", "--network", network, nginx, "getent", "ahostsv4", "big.example")
    assert len({line.split()[0] for line in shown.splitlines()}) == 100


def test_an_internal_network_leads_nowhere(networked: EngineUnderTest, start: Start, outside: Outside) -> None:
    networked.atoll.ok("network", "create", "--internal", "cave")
    fish, bat = start("--network", "cave", "--name", "fish"), start("--network", "cave", "--name", "bat")
    assert ok(fish, "ping", "-c", "1", "-W", "5", "bat")
    before = outside.visits()
    for address in (WEB[0], WEB[1], HOST[0]):
        assert bat.exec("probe", "get", address, "/").code != 0
    assert bat.exec("nslookup", "web.example").code != 0
    assert outside.visits() == before


def test_without_a_network_there_is_none(start: Start) -> None:
    container = start("--network", "none")
    assert ok(container, "ls", "/sys/class/net") == "lo"


def test_the_metadata_service_is_out_of_reach_unless_allowed(
    networked: EngineUnderTest, start: Start, network: str, outside: Outside
) -> None:
    container = start("--network", network)
    before = outside.visits()
    assert container.exec("probe", "get", METADATA, "/").code != 0
    assert outside.visits() == before
    networked.atoll.ok("network", "create", "--opt", "metadata=allow", "trusted")
    assert ok(start("--network", "trusted"), "probe", "get", METADATA, "/") == "secret"


def test_the_host_itself_is_out_of_reach(start: Start, network: str, outside: Outside, tmp_path: Path) -> None:
    container = start("--network", network)
    probe = outside.on_host(str(build_probe(tmp_path)))
    with probe.start("sink", "9000") as sink:
        try:
            gateway = addresses(container, network).gateway
            for address in (gateway, *HOST):
                assert container.exec("probe", "connect", address, "9000", "1").code != 0, address
        finally:
            sink.kill()


def test_isolated_containers_do_not_reach_each_other(networked: EngineUnderTest, start: Start) -> None:
    networked.atoll.ok("network", "create", "--opt", "isolate=true", "islands")
    one, two = start("--network", "islands"), start("--network", "islands")
    assert one.exec("ping", "-c", "1", "-W", "2", addresses(two, "islands").ipv4).code != 0
    assert one.exec("ping6", "-c", "1", "-W", "2", addresses(two, "islands").ipv6).code != 0
    assert ok(one, "probe", "get", WEB[0], "/") == HOST[0]


def test_egress_is_what_was_listed(start: Start, network: str) -> None:
    container = start("--network", network, "--egress", f"allow={OTHER_WEB}:80,domain=web.example")
    assert ok(container, "probe", "get", OTHER_WEB, "/") == HOST[0]
    assert ok(container, "probe", "get", resolved(container, "web.example"), "/") in HOST
    assert container.exec("nslookup", "other.example").code != 0
    assert container.exec("probe", "ask", OTHER_WEB, str(ECHO_PORT), "ahoy").code != 0
    closed = start("--network", network, "--egress", "none")
    assert closed.exec("probe", "get", WEB[0], "/").code != 0


def test_nginx_answers_on_a_published_port(
    networked: EngineUnderTest, start: Start, outside: Outside, nginx: str
) -> None:
    serve = ("nginx", "-g", "daemon off; error_log stderr;")
    networked.atoll.ok("run", "-d", "--name", "web", "-p", "8080:80", nginx, *serve)
    curl = outside.on_host("curl")
    for address in ("127.0.0.1", HOST[0], "[::1]", f"[{HOST[1]}]"):
        assert "nginx" in eventually(lambda address=address: curl("-s", "-m", "5", f"http://{address}:8080/"))  # type: ignore[misc]  # a default binds it
    assert "nginx" in outside.on_internet("curl").ok("-s", "-m", "10", f"http://{HOST[0]}:8080/")
    assert "0.0.0.0:8080" in networked.atoll.ok("port", "web", "80")
    networked.atoll.ok("rm", "-f", "web")
    assert curl("-s", "-m", "2", f"http://{HOST[0]}:8080/").code != 0


def test_datagrams_to_a_published_port_are_answered(
    start: Start, network: str, outside: Outside, tmp_path: Path
) -> None:
    start("--network", network, "-p", "5353:7/udp", command=("probe", "echo", "7"))
    probe = str(build_probe(tmp_path))
    assert eventually(lambda: outside.on_host(probe)("ask", "127.0.0.1", "5353", "ahoy")) == "ahoy"
    assert outside.on_internet(probe).ok("ask", HOST[0], "5353", "ahoy") == "ahoy"
    assert outside.on_internet(probe).ok("ask", HOST[1], "5353", "ahoy") == "ahoy"


def test_a_taken_port_is_said_and_nothing_is_started(networked: EngineUnderTest, start: Start, network: str) -> None:
    start("--network", network, "-p", "8081:80")
    refused = networked.atoll("run", "-d", "--name", "late", "--network", network, "-p", "8081:80", "busybox", "true")
    assert refused.code != 0
    assert "8081" in refused.stderr
    assert re.search("already in use|already allocated", refused.stderr)
    assert json.loads(networked.atoll.ok("inspect", "late"))[0]["State"]["Status"] == "created"


def test_a_free_port_is_chosen_and_told(
    networked: EngineUnderTest, start: Start, network: str, outside: Outside, tmp_path: Path
) -> None:
    container = start("--network", network, "-p", "9000", command=("probe", "sink", "9000"))
    port = networked.atoll.ok("port", container.id, "9000/tcp").splitlines()[0].rpartition(":")[2]
    assert eventually(lambda: outside.on_host(str(build_probe(tmp_path)))("push", "127.0.0.1", port, "1000000"))


def test_connect_and_disconnect_while_it_runs(networked: EngineUnderTest, start: Start, network: str) -> None:
    networked.atoll.ok("network", "create", "shore")
    crab = start("--network", "shore", "--name", "crab")
    shark = start("--network", network, "--name", "shark")
    assert shark.exec("ping", "-c", "1", "-W", "1", "crab").code != 0
    networked.atoll.ok("network", "connect", "--alias", "visitor", "shore", "shark")
    assert ok(shark, "ping", "-c", "1", "-W", "5", "crab")
    assert ok(crab, "ping", "-c", "1", "-W", "5", "visitor")
    assert ok(crab, "ping6", "-c", "1", "-W", "5", "shark")
    networked.atoll.ok("network", "disconnect", "shore", "shark")
    assert shark.exec("ping", "-c", "1", "-W", "1", "crab").code != 0
    assert crab.exec("nslookup", "shark").code != 0
    assert "eth1" not in ok(shark, "ls", "/sys/class/net")
    networked.atoll.ok("network", "connect", "shore", "shark")
    assert ok(shark, "ping", "-c", "1", "-W", "5", "crab")


def test_a_network_in_use_is_not_removed(networked: EngineUnderTest, start: Start, network: str) -> None:
    start("--network", network)
    refused = networked.atoll("network", "rm", network)
    assert refused.code != 0
    assert "active endpoints" in refused.stderr


def test_an_address_returns_when_its_container_is_removed(networked: EngineUnderTest, start: Start) -> None:
    networked.atoll.ok("network", "create", "--subnet", "10.99.8.0/30", "tiny")
    first = start("--network", "tiny")
    full = networked.atoll("run", "-d", "--network", "tiny", "busybox", "true")
    assert full.code != 0
    networked.atoll.ok("rm", "-f", first.id)
    assert addresses(start("--network", "tiny"), "tiny").ipv4 == "10.99.8.2"


def test_the_resolver_is_what_flags_say(networked: EngineUnderTest, start: Start, network: str) -> None:
    container = start(
        *("--network", network, "--dns-search", "sea.example", "--dns-option", "ndots:3"),
        *("--add-host", "lighthouse:192.0.2.7", "--add-host", "host:host-gateway"),
    )
    resolv_conf = ok(container, "cat", "/etc/resolv.conf")
    assert "search sea.example" in resolv_conf
    assert "ndots:3" in resolv_conf
    hosts = ok(container, "cat", "/etc/hosts")
    assert "192.0.2.7\tlighthouse" in hosts
    assert addresses(container, network).ipv4 in hosts


def test_statistics_tell_each_interface(networked: EngineUnderTest, start: Start, network: str) -> None:
    container = start("--network", network)
    ok(container, "sh", "-c", f"probe get {WEB[0]} /bytes/1000000 >/dev/null")
    shown = networked.atoll.ok("stats", "--no-stream", "--format", "{{.NetIO}}", container.id)
    received = shown.split(" / ")[0]
    assert received.endswith("MB"), shown


def test_a_trace_is_a_pcap_of_the_network(
    networked: EngineUnderTest, start: Start, network: str, tmp_path: Path
) -> None:
    container = start("--network", network)
    file = networked.root / "trace.pcap"
    with networked.atoll.start("network", "trace", network, "-w", str(file)) as trace:
        eventually(lambda: Finished((), 0 if file.exists() and file.stat().st_size >= 24 else 1, b"x", b""))
        ok(container, "probe", "ask", WEB[0], str(ECHO_PORT), "a-word-on-the-wire")
        eventually(lambda: Finished((), 0 if b"a-word-on-the-wire" in file.read_bytes() else 1, b"x", b""))
        trace.send_signal(2)
        trace.wait(10)
    assert file.read_bytes()[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\xc3\xd4")


def test_the_network_of_another_container_is_refused_with_the_reason(networked: EngineUnderTest, start: Start) -> None:
    start("--name", "shark")
    refused = networked.atoll("run", "--rm", "--network", "container:shark", "busybox", "true")
    assert refused.code != 0
    assert "container:" in refused.stderr


def ok(container: Container, *command: str) -> str:
    """What a command in a container prints; it has to succeed."""
    done = container.exec(*command)
    assert done.code == 0, str(done)
    return done.stdout.strip()


def resolved(container: Container, name: str) -> str:
    """The IPv4 address that a container finds for a name."""
    return re.findall(r"Address: (\S+)", ok(container, "nslookup", "-type=a", name))[-1]


def eventually(attempt: Callable[[], Finished]) -> str:
    """What a command prints when it succeeds, tried again for a while: a server in a guest takes its time to listen."""
    deadline = time.monotonic() + _SETTLE_S
    while (done := attempt()).code != 0:
        assert time.monotonic() < deadline, str(done)
        time.sleep(0.1)
    return done.stdout.strip()
