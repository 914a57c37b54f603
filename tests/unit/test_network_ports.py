import ipaddress
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from atoll.model.network import Network, SegmentSpec, Subnet
from atoll.network.segment.ports import tcp
from atoll.network.segment.ports.budget import Budget
from atoll.network.segment.ports.forwarder import Forwarder
from atoll.network.segment.ports.pipes import Pipes
from atoll.network.segment.ports.source import Source
from atoll.network.segment.ports.target import Target
from atoll.network.segment.ports.udp import Port
from atoll.network.segment.uplink.link import Link, choose_link
from atoll.network.segment.uplink.uplink import to_host_ruleset
from atoll.network.segment.uplink.veth import ruleset

LINK = Link(ipv4="100.64.0.2/30", gateway4="100.64.0.1", ipv6="fd01::2/64", gateway6="fd01::1", configured=True)
HERE = "127.0.0.1"


@pytest.fixture
def forwarder() -> Iterator[Forwarder]:
    made = Forwarder()
    made.start()
    yield made
    made.stop()


def listener(forwarder: Forwarder, target: int, budget: Budget) -> tcp.Listener:
    sock = socket.create_server((HERE, 0))
    sock.setblocking(False)
    pipes, source = Pipes(), Source()
    return forwarder.run(
        lambda: tcp.Listener(forwarder, pipes, source, budget, sock, Target(HERE, "", target))
    ).result()


def port_of(made: tcp.Listener) -> int:
    return int(made._sock.getsockname()[1])


def test_a_link_is_where_the_host_has_no_route() -> None:
    first = choose_link("0123", [], configured=True)
    assert ipaddress.ip_interface(first.ipv4).network.overlaps(ipaddress.ip_network("100.64.0.0/10"))
    assert choose_link("0123", ["10.0.0.0/8", "2001:db8::/32", "0.0.0.0/0"], configured=True) == first
    second = choose_link("0123", [str(ipaddress.ip_interface(first.ipv4).network)], configured=True)
    assert second.ipv4 != first.ipv4
    third = choose_link("0123", ["100.64.0.0/10"], configured=True)
    assert ipaddress.ip_interface(third.ipv4) in ipaddress.ip_network("198.18.0.0/15")


def test_networks_have_links_of_their_own() -> None:
    links = {choose_link(f"{number:012x}", [], configured=False).ipv4 for number in range(200)}
    assert len(links) > 195


def test_only_the_network_host_leads_to_the_host() -> None:
    network = Network(
        id="0", name="reef", created_at=datetime.now(UTC), ipv4=Subnet(subnet="10.83.0.0/24", gateway="10.83.0.1")
    )
    assert "dnat" not in to_host_ruleset(LINK, SegmentSpec(network=network, uplink="pasta"))
    spec = SegmentSpec(network=network, uplink="pasta", to_host=True)
    assert "ip daddr 10.83.0.1 meta l4proto { tcp, udp } th dport != 53 dnat ip to 100.64.0.1" in to_host_ruleset(
        LINK, spec
    )
    assert "dnat" not in to_host_ruleset(None, spec)


def test_a_veth_has_a_table_of_its_own() -> None:
    text = ruleset("at0123", "atoll_0123", LINK)
    assert "table inet atoll_0123 {\n  flags owner;" in text
    assert 'iifname "at0123" oifname "at*" drop;' in text


def test_a_client_is_itself_unless_it_is_the_host_or_of_the_network() -> None:
    source = Source()
    source._families = {socket.AF_INET}
    source._subnets = (ipaddress.ip_network("10.83.0.0/24"),)
    source._ours = frozenset({"192.0.2.2"})
    for client in ("127.0.0.1", "192.0.2.2", "10.83.0.9", "169.254.1.1", "2001:db8::1"):
        assert not source.can_be(client, "10.83.0.2", "192.0.2.7"), client
    assert source.can_be("198.51.100.1", "10.83.0.2", "192.0.2.7")
    assert not source.can_be("192.0.2.7", "10.83.0.2", "192.0.2.7")
    assert not source.can_be("2001:db8::1", "fd83::2", "2001:db8::2")


def test_a_budget_is_part_of_another() -> None:
    whole = Budget(3)
    one, other = Budget(2, whole), Budget(2, whole)
    one.take()
    one.take()
    assert not one.is_left()
    other.take()
    assert not other.is_left()
    one.give_back()
    assert other.is_left()


def test_a_direction_that_was_blocked_goes_on_after_its_turn(
    forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tcp, "_TURN_BYTES", 1)
    size = 32 << 20
    with socket.create_server((HERE, 0)) as server, ThreadPoolExecutor(1) as sender:
        made = listener(forwarder, server.getsockname()[1], Budget(10))
        with socket.create_connection((HERE, port_of(made)), 10) as client:
            container, _ = server.accept()
            with container:
                sent = sender.submit(container.sendall, bytes(size))
                time.sleep(0.3)
                received = 0
                while received < size:
                    received += len(client.recv(1 << 20))
                sent.result()
        forwarder.run(made.close).result()


def test_who_comes_over_the_limit_waits(forwarder: Forwarder, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server((HERE, 0)) as server:
        server.settimeout(0.5)
        made = listener(forwarder, server.getsockname()[1], Budget(1))
        client = socket.create_connection((HERE, port_of(made)), 10)
        first, _ = server.accept()
        with socket.create_connection((HERE, port_of(made)), 10) as second:
            with pytest.raises(TimeoutError):
                server.accept()
            assert "takes no connections for now" in caplog.text
            client.close()
            first.close()
            served, _ = server.accept()
            with served:
                served.sendall(b"x")
                assert second.recv(1) == b"x"
        forwarder.run(made.close).result()


def test_a_container_that_does_not_answer_is_given_up(forwarder: Forwarder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_SILENCE_S", 0.0)
    # A listener whose queue is full lets nobody in.
    with socket.create_server((HERE, 0), backlog=0) as server, socket.create_connection(server.getsockname()):
        made = listener(forwarder, server.getsockname()[1], Budget(10))
        with pytest.raises(ConnectionResetError):
            socket.create_connection((HERE, port_of(made)), 10).recv(1)
        forwarder.run(made.close).result()


def test_the_flow_that_was_silent_longest_makes_room(forwarder: Forwarder) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as container:
        container.bind((HERE, 0))
        container.settimeout(10)
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((HERE, 0))
        sock.setblocking(False)
        address, target = sock.getsockname(), Target(HERE, "", container.getsockname()[1])
        port = forwarder.run(lambda: Port(forwarder, Source(), Budget(2), sock, target, 90.0)).result()
        clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        sources = []
        for client in clients:
            client.settimeout(0.3)
            client.sendto(b"x", address)
            sources.append(container.recvfrom(10)[1])
        for source in sources:
            container.sendto(b"y", source)
        with pytest.raises(TimeoutError):
            clients[0].recv(10)
        assert [client.recv(10) for client in clients[1:]] == [b"y", b"y"]
        forwarder.run(port.close).result()
        for client in clients:
            client.close()
