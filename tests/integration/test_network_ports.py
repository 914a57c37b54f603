"""Published ports: a segment on a host of its own, with root and without, and clients on the host and beyond it."""

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.inside import Inside
from harness.internet import HOST, PEER, UNPRIVILEGED_UID, Outside, outside
from harness.segment import Refused, SmallSegment, small_segment
from harness.small_segment import ANSWER, ECHO, GATEWAYS, RESET, SINK, WHO

HERE = "127.0.0.1"
SILENCE_S = 2.0
CONNECTIONS = 2000


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outside]:
    with outside(tmp_path_factory.mktemp("outside")) as made:
        yield made


@pytest.fixture(scope="module", params=[0, UNPRIVILEGED_UID], ids=["root", "without-root"])
def segment(request: pytest.FixtureRequest, world: Outside) -> Iterator[SmallSegment]:
    with small_segment(world, request.param, [f"SILENCE_S={SILENCE_S}"]) as made:
        yield made


@pytest.fixture(scope="module")
def host(world: Outside) -> Iterator[Inside]:
    made = Inside(world.host)
    yield made
    made.close()


@pytest.fixture(scope="module")
def elsewhere(world: Outside) -> Iterator[Inside]:
    made = Inside(world.internet)
    yield made
    made.close()


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while piece := sock.recv(1 << 20):
        received += piece
    return received


def test_bytes_and_both_ends_of_them_pass(segment: SmallSegment, host: Inside) -> None:
    segment.publish((ECHO, "tcp", "", 8080))
    sent = bytes(range(256)) * 40_000
    for ip in (HERE, "::1"):
        with host.connect(ip, 8080) as client, ThreadPoolExecutor(1) as reader:
            received = reader.submit(read_all, client)
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            assert received.result() == sent


def test_a_server_may_end_its_direction_first(segment: SmallSegment, host: Inside) -> None:
    segment.publish((ANSWER, "tcp", HERE, 8081))
    with host.connect(HERE, 8081) as client:
        assert len(read_all(client)) == 1 << 20
        # A number of bytes that no other worker sends.
        still_listened_to = bytes(100_000 + os.getpid())
        client.sendall(still_listened_to)
        client.shutdown(socket.SHUT_WR)
        told = Path(f"/tmp/atoll-test-{len(still_listened_to)}")
        deadline = time.monotonic() + 5
        while not told.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    told.unlink()


def test_a_reset_is_passed_on(segment: SmallSegment, host: Inside) -> None:
    segment.publish((RESET, "tcp", HERE, 8082))
    with host.connect(HERE, 8082) as client:
        client.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_port_that_nobody_serves_resets(segment: SmallSegment, host: Inside) -> None:
    segment.publish((99, "tcp", HERE, 8083))
    with pytest.raises(ConnectionResetError), host.connect(HERE, 8083) as client:
        client.recv(1)


def test_thousands_of_connections_at_once(segment: SmallSegment, host: Inside) -> None:
    segment.publish((ECHO, "tcp", HERE, 8084))
    before = segment.ask(descriptors=True)
    with ExitStack() as stack:
        clients = [stack.enter_context(host.connect(HERE, 8084)) for _ in range(CONNECTIONS)]
        for number, client in enumerate(clients):
            client.sendall(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.recv(100) == b"%d" % number
    deadline = time.monotonic() + 10
    while segment.ask(descriptors=True) > before + 70:  # spare pipes
        assert time.monotonic() < deadline, "connections are left"
        time.sleep(0.05)


def test_the_container_sees_its_client(segment: SmallSegment, host: Inside, elsewhere: Inside) -> None:
    segment.publish((WHO, "tcp", "", 8085))
    for ip, client in zip(HOST, PEER, strict=True):
        with elsewhere.connect(ip, 8085) as sock:
            assert read_all(sock).decode() == "{} {}".format(*sock.getsockname()[:2])
            assert sock.getsockname()[0] == client
    # The host is known by the gateway's address.
    for ip, gateway in ((HERE, GATEWAYS[0]), (HOST[0], GATEWAYS[0]), ("::1", GATEWAYS[1])):
        with host.connect(ip, 8085) as sock:
            assert read_all(sock).decode().split()[0] == gateway


def test_a_client_comes_again_from_the_same_port(segment: SmallSegment, elsewhere: Inside) -> None:
    segment.publish((WHO, "tcp", HOST[0], 8086), (WHO, "tcp", HOST[0], 8087))
    for port in (8086, 8087):
        with elsewhere.connect(HOST[0], port, (PEER[0], 40_001)) as sock:
            assert read_all(sock).decode().startswith(PEER[0])


def test_datagrams_are_answered_by_whom_they_were_sent_to(
    segment: SmallSegment, host: Inside, elsewhere: Inside
) -> None:
    segment.publish((ECHO, "udp", "", 8088))
    for ip, client in zip(HOST, PEER, strict=True):
        with elsewhere.datagrams(ip, 8088) as sock:
            sock.send(b"who")
            assert sock.recv(100).decode() == f"{client} {sock.getsockname()[1]}"
    for ip, gateway in ((HERE, GATEWAYS[0]), ("127.0.0.77", GATEWAYS[0]), ("::1", GATEWAYS[1])):
        with host.datagrams(ip, 8088) as sock:
            for size in (1, 1400, 60_000):
                sock.send(bytes(size))
                assert len(sock.recv(1 << 16)) == size
            sock.send(b"who")
            assert sock.recv(100).decode().split()[0] == gateway


def test_flows_end_when_they_are_silent(segment: SmallSegment, host: Inside) -> None:
    segment.publish((ECHO, "udp", HERE, 8089))
    before = segment.ask(descriptors=True)
    with ExitStack() as stack:
        for _ in range(200):
            sock = stack.enter_context(host.datagrams(HERE, 8089))
            sock.send(b"x")
            assert sock.recv(100) == b"x"
        assert segment.ask(descriptors=True) >= before + 200
        time.sleep(SILENCE_S + 1.5)
        assert segment.ask(descriptors=True) < before + 20
        sock.send(b"again")
        assert sock.recv(100) == b"again"


def test_a_taken_port_refuses_all(segment: SmallSegment, host: Inside) -> None:
    with host.do(lambda: socket.create_server((HERE, 8090))):
        with pytest.raises(Refused) as refusal:
            segment.publish((ECHO, "tcp", "", 8091), (ECHO, "tcp", HERE, 8090))
        assert refusal.value.kind == "Conflict"
        assert str(refusal.value) == (
            "driver failed programming external connectivity on endpoint fish (c0ffeec0ffee): "
            "Bind for 127.0.0.1:8090/tcp failed: port is already allocated"
        )
        with pytest.raises(ConnectionRefusedError):
            host.connect(HERE, 8091)


def test_what_stays_published_keeps_its_connections(segment: SmallSegment, host: Inside) -> None:
    ((_, random), (_, random6)) = segment.publish((ECHO, "tcp", "", 0))
    assert random == random6
    with host.connect(HERE, random) as client:
        assert segment.publish((ECHO, "tcp", "", 0), (SINK, "tcp", HERE, 8092))[0] == ("0.0.0.0", random)
        # An engine that has it from its records asks for what was chosen.
        assert segment.publish((ECHO, "tcp", "0.0.0.0", random), (ECHO, "tcp", "::", random)) == [
            ("0.0.0.0", random),
            ("::", random),
        ]
        client.sendall(b"here")
        assert client.recv(10) == b"here"
        with pytest.raises(ConnectionRefusedError):
            host.connect(HERE, 8092)
        segment.ask(remove=True)
        with pytest.raises(ConnectionResetError):
            client.recv(10)


def test_the_first_free_port_of_a_range_is_taken(segment: SmallSegment, host: Inside) -> None:
    with host.do(lambda: socket.create_server((HERE, 8100))):
        assert segment.publish((ECHO, "tcp", HERE, 8100, 8102)) == [(HERE, 8101)]
        with pytest.raises(Refused, match="8100/tcp failed: port is already allocated"):
            segment.publish((SINK, "tcp", HERE, 8100))


def test_foreign_addresses_are_refused(segment: SmallSegment) -> None:
    with pytest.raises(Refused, match=r"192\.0\.2\.77:8093/tcp: cannot assign requested address") as refusal:
        segment.publish((ECHO, "tcp", "192.0.2.77", 8093))
    assert refusal.value.kind == "InvalidRequest"
