"""The way out of a segment: pasta with root and without, and a veth pair; to a fake internet, and never to the host."""

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from harness.inside import Inside
from harness.internet import HOST, UNPRIVILEGED_UID, Outside, outside, tun_for_everybody
from harness.segment import SmallSegment, small_segment
from harness.small_segment import GATEWAYS, NETWORK

WEB = ("198.51.100.80", "[2001:db8:80::80]")
KINDS = [("pasta", 0), ("pasta", UNPRIVILEGED_UID), ("veth", 0)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with tun_for_everybody(), outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(params=KINDS, ids=["pasta", "pasta-without-root", "veth"])
def kind(request: pytest.FixtureRequest) -> tuple[str, int]:
    chosen: tuple[str, int] = request.param
    return chosen


def fetch(segment: SmallSegment, host: str, port: int = 80) -> str:
    return segment.in_container(
        "curl", "-s", "-m", "3", "-o", "/dev/null", "-w", "%{http_code}", f"http://{host}:{port}/"
    )


def traces(world: Outside) -> list[str]:
    """What is on the host; named namespaces are the whole machine's, and other tests make some."""
    return [line for line in world.traces() if not line.startswith("namespace ")]


def wait_until_as_before(world: Outside, before: list[str]) -> None:
    deadline = time.monotonic() + 10
    while traces(world) != before or world.processes():
        assert time.monotonic() < deadline, f"left behind: {set(traces(world)) - set(before)} {world.processes()}"
        time.sleep(0.1)


def test_a_container_reaches_the_internet_and_nothing_is_left(world: Outside, kind: tuple[str, int]) -> None:
    before = traces(world)
    with small_segment(world, kind[1]) as segment:
        assert fetch(segment, WEB[0]) == "000"
        for _ in range(2):
            segment.ask(uplink=kind[0], to_host=False)
            assert [fetch(segment, host) for host in WEB] == ["200", "200"]
        segment.ask(uplink="none", to_host=False)
        assert fetch(segment, WEB[0]) == "000"
    wait_until_as_before(world, before)


def test_the_way_out_goes_with_a_segment_that_is_killed(world: Outside, kind: tuple[str, int]) -> None:
    before = traces(world)
    with small_segment(world, kind[1]) as segment:
        segment.ask(uplink=kind[0], to_host=False)
        segment.process.send_signal(signal.SIGKILL)
        segment.process.wait()
    wait_until_as_before(world, before)


def test_the_next_segment_has_it_at_once(world: Outside) -> None:
    before = traces(world)
    with small_segment(world) as first, small_segment(world) as second:
        first.ask(uplink="veth", to_host=False)
        first.process.send_signal(signal.SIGKILL)
        second.ask(uplink="veth", to_host=False)
        assert fetch(second, WEB[0]) == "200"
        time.sleep(0.5)
        assert fetch(second, WEB[0]) == "200"
    wait_until_as_before(world, before)


def test_it_is_made_again_when_it_is_lost(world: Outside, kind: tuple[str, int]) -> None:
    with small_segment(world, kind[1]) as segment:
        segment.ask(uplink=kind[0], to_host=False)
        if kind[0] == "veth":
            world.on_host("ip", "link", "delete", f"at{NETWORK.id[:12]}").ok()
        else:
            (pasta,) = [process for process in world.processes() if "passt" in _program(process.pid)]
            os.kill(pasta.pid, signal.SIGKILL)
        deadline = time.monotonic() + 15
        while fetch(segment, WEB[0]) != "200":
            assert time.monotonic() < deadline


def test_the_host_is_reached_as_its_gateway_only_where_it_should(world: Outside) -> None:
    host = Inside(world.host)
    with (
        host.do(lambda: socket.create_server(("127.0.0.1", 8070))) as loopback,
        host.do(lambda: socket.create_server((HOST[0], 8071))) as public,
        small_segment(world, UNPRIVILEGED_UID) as segment,
    ):
        for listener in (loopback, public):
            listener.settimeout(0.2)
        segment.ask(uplink="pasta", to_host=False)
        segment.in_container("curl", "-s", "-m", "1", f"http://{GATEWAYS[0]}:8070/")
        with pytest.raises(TimeoutError):
            loopback.accept()
        segment.ask(uplink="pasta", to_host=True)
        segment.in_container("curl", "-s", "-m", "1", f"http://{GATEWAYS[0]}:8070/")
        loopback.accept()[0].close()
    host.close()


def test_veth_leads_neither_to_the_host_nor_to_other_networks_of_ours(world: Outside) -> None:
    host, other = Inside(world.host), Inside(world.internet)
    neighbour = "192.0.2.9"
    for words in (
        f"link add atother type veth peer name other netns {world.internet}",
        "link set atother up",
        f"route add {neighbour} dev atother",
    ):
        world.on_host("ip", *words.split()).ok()
    world.on_internet("ip", "address", "add", neighbour, "dev", "other").ok()
    world.on_internet("ip", "link", "set", "other", "up").ok()
    try:
        with (
            host.do(lambda: socket.create_server((HOST[0], 8071))) as public,
            other.do(lambda: socket.create_server((neighbour, 8072))) as foreign,
            small_segment(world) as segment,
        ):
            host.connect(neighbour, 8072).close()
            foreign.accept()[0].close()
            segment.ask(uplink="veth", to_host=False)
            for listener, address in ((public, f"{HOST[0]}:8071"), (foreign, f"{neighbour}:8072")):
                listener.settimeout(0.2)
                segment.in_container("curl", "-s", "-m", "1", f"http://{address}/")
                with pytest.raises(TimeoutError):
                    listener.accept()
            assert "owner" in world.on_host("nft", "list", "table", "inet", f"atoll_{NETWORK.id[:12]}").ok()
            assert fetch(segment, WEB[0]) == "200"
    finally:
        world.on_host("ip", "link", "delete", "atother").ok()
        host.close()
        other.close()


def _program(pid: int) -> str:
    with open(f"/proc/{pid}/comm") as file:  # noqa: PTH123
        return file.read()
