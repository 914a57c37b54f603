"""`atoll port`, `atoll network ls` and `atoll network trace` against a server that says what a test wants."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from atoll.cli.program import run

PORTS = {
    "443/tcp": None,
    "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}],
    "53/udp": [{"HostIp": "127.0.0.1", "HostPort": "53"}],
}


@contextmanager
def serving(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that answers one connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                received = b""
                while not received.endswith(b"\r\n\r\n"):
                    received += connection.recv(1)
                talk(connection)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        yield f"unix://{path}"
        server.join()


def answering(value: object) -> Callable[[socket.socket], None]:
    body = json.dumps(value).encode()
    return lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        ([], 0, "53/udp -> 127.0.0.1:53\n80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n", ""),
        (["80"], 0, "0.0.0.0:8080\n[::]:8080\n", ""),
        (["53/udp"], 0, "127.0.0.1:53\n", ""),
        (["443/tcp"], 1, "", "no public port '443/tcp' published for crab\n"),
        (["53"], 1, "", "no public port '53/tcp' published for crab\n"),
    ],
)
def test_port_shows_where_ports_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, out: str, err: str
) -> None:
    with serving(tmp_path / "s", answering({"NetworkSettings": {"Ports": PORTS}})) as host:
        assert run(["-H", host, "port", "crab", *arguments]) == code
    assert capsys.readouterr() == (out, err)


def test_networks_are_listed_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"Id": "e" * 64, "Name": "reef", "Driver": "bridge", "Scope": "local", "EnableIPv4": True, "EnableIPv6": True},
        {"Id": "b" * 64, "Name": "bridge", "Driver": "bridge", "Scope": "local", "Labels": {"a": "b"}},
    ]
    with serving(tmp_path / "s", answering(rows)) as host:
        assert run(["-H", host, "network", "ls", "--format", "table {{.ID}}\t{{.Name}}\t{{.IPv6}}\t{{.Labels}}"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "NETWORK ID     NAME      IPV6      LABELS",
        "bbbbbbbbbbbb   bridge    false     a=b",
        "eeeeeeeeeeee   reef      true      ",
    ]


def test_a_networks_time_is_written_as_docker_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"Id": "e" * 64, "Name": "reef", "Created": "2026-01-02T03:04:05.120000000Z"}]
    with serving(tmp_path / "s", answering(rows)) as host:
        assert run(["-H", host, "network", "ls", "--format", "{{.CreatedAt}}"]) == 0
    assert capsys.readouterr().out == "2026-01-02 03:04:05.12 +0000 UTC\n"


def test_a_trace_ends_with_a_whole_record_when_it_is_interrupted(tmp_path: Path) -> None:
    records = [b"head", b"first record", b"last record, written while the client was interrupted"]

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for record in records[:-1]:
            connection.sendall(b"%x\r\n%s\r\n" % (len(record), record))
        while not file.exists() or file.stat().st_size < sum(map(len, records[:-1])):
            pass
        os.kill(os.getpid(), signal.SIGINT)
        assert connection.recv(1) == b""
        connection.sendall(b"%x\r\n%s\r\n" % (len(records[-1]), records[-1]))

    file = tmp_path / "pcap"
    before = signal.getsignal(signal.SIGINT)
    with serving(tmp_path / "s", talk) as host:
        assert run(["-H", host, "network", "trace", "reef", "-w", str(file)]) == 0
    assert file.read_bytes() == b"".join(records)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_trace_whose_engine_goes_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def talk(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhead\r\n")

    with serving(tmp_path / "s", talk) as host:
        assert run(["-H", host, "network", "trace", "reef", "-w", str(tmp_path / "pcap")]) == 1
    assert "the engine closed the connection" in capsys.readouterr().err


def test_a_trace_is_nothing_for_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 1)
    assert run(["network", "trace", "reef"]) == 1
    assert "nothing for a terminal" in capsys.readouterr().err
