"""The client against a server that says exactly what a test wants it to say."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from atoll.client import Client, EngineError, containers
from atoll.client.address import engine_socket
from atoll.errors import InvalidRequest, Unavailable

Talk = Callable[[socket.socket], None]


@contextmanager
def serving(path: Path, *talks: Talk) -> Iterator[Client]:
    """A client of a server that holds one talk a connection, in order."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for talk in talks:
                connection, _ = listener.accept()
                with connection, suppress(ConnectionError):
                    talk(connection)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        client = Client(path)
        yield client
        client.close()
        server.join()


def head_of(connection: socket.socket) -> bytes:
    """A request's head, without what follows it."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        received += connection.recv(1)
    return received


def reply(status: str, body: bytes = b"", *headers: str) -> bytes:
    fields = "".join(f"{header}\r\n" for header in (*headers, f"Content-Length: {len(body)}"))
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + body


def test_one_connection_serves_several_requests(tmp_path: Path) -> None:
    heads: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        for body in (b'{"a": 1}', b"[]", b""):
            heads.append(head_of(connection))
            connection.sendall(reply("200 OK", body))

    with serving(tmp_path / "s", talk) as client:
        assert client.get("/a", {"x": True, "y": False, "z": None, "t": "a b&c"}) == {"a": 1}
        assert client.get("/b") == []
        assert client.post("/c") is None
    assert [head.split(b"\r\n")[0] for head in heads] == [
        b"GET /a?x=1&y=0&t=a+b%26c HTTP/1.1",
        b"GET /b HTTP/1.1",
        b"POST /c HTTP/1.1",
    ]


def test_a_connection_that_was_closed_meanwhile_is_replaced(tmp_path: Path) -> None:
    closed = threading.Event()

    def first(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(reply("200 OK", b"1"))
        connection.shutdown(socket.SHUT_RDWR)
        closed.set()

    def second(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(reply("200 OK", b"2"))

    with serving(tmp_path / "s", first, second) as client:
        assert client.get("/") == 1
        closed.wait()
        assert client.get("/") == 2


@pytest.mark.parametrize(
    ("body", "message", "name"),
    [
        (b'{"message": "no such container: x", "code": "not-found"}', "no such container: x", "not-found"),
        (b'{"message": "old"}', "old", ""),
        (b"plain text", "plain text", ""),
        (b"", "HTTP status 404", ""),
        (b'["no"]', '["no"]', ""),
    ],
)
def test_an_error_is_the_engines_sentence(body: bytes, message: str, name: str, tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(reply("404 Not Found", body))

    with serving(tmp_path / "s", talk) as client, pytest.raises(EngineError) as caught:
        client.get("/")
    assert (str(caught.value), caught.value.status, caught.value.name) == (message, 404, name)


def test_names_are_quoted_in_paths(tmp_path: Path) -> None:
    heads: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        heads.append(head_of(connection))
        connection.sendall(reply("204 No Content"))

    with serving(tmp_path / "s", talk) as client:
        containers.pause(client, "a/../b?c")
    assert heads[0].startswith(b"POST /containers/a%2F..%2Fb%3Fc/pause HTTP/1.1")


def test_an_upload_is_sent_in_chunks(tmp_path: Path) -> None:
    received: list[bytes] = []

    def talk(connection: socket.socket) -> None:
        head_of(connection)
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += connection.recv(100)
        received.append(body)
        connection.sendall(reply("200 OK", b'{"stream": "done"}\r\n'))

    with serving(tmp_path / "s", talk) as client:
        response = client.request("POST", "/images/load", upload=iter([b"one", b"three"]))
        assert list(response.lines()) == [b'{"stream": "done"}']
        response.close()
    assert received == [b"3\r\none\r\n5\r\nthree\r\n0\r\n\r\n"]


def test_an_upload_that_is_refused_early_is_the_refusal_and_no_broken_pipe(tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(reply("400 Bad Request", b'{"message": "not a tar"}', "Connection: close"))

    endless = iter(lambda: b"x" * 65536, b"")
    with serving(tmp_path / "s", talk) as client, pytest.raises(EngineError, match="not a tar"):
        client.request("POST", "/images/load", upload=endless)


def test_lines_come_as_they_are_complete(tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        head_of(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (b'{"a"', b":1}\r\n\r\n{", b'"b":2}\n{"c":3}'):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")

    with serving(tmp_path / "s", talk) as client:
        response = client.request("GET", "/")
        assert list(response.lines()) == [b'{"a":1}', b'{"b":2}', b'{"c":3}']
        response.close()


@pytest.mark.parametrize("status", ["101 UPGRADED", "200 OK"])
def test_a_hijacked_connection_begins_with_what_followed_the_head(status: str, tmp_path: Path) -> None:
    def talk(connection: socket.socket) -> None:
        head = head_of(connection)
        assert b"Upgrade: tcp" in head
        upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n" if status.startswith("101") else ""
        connection.sendall(f"HTTP/1.1 {status}\r\n{upgrade}\r\nat once ".encode())
        connection.sendall(connection.recv(100))

    with serving(tmp_path / "s", talk) as client:
        stream = containers.attach(client, "c", stdin=True, stdout=True, stderr=True, detach_keys=None)
        stream.try_send(b"echo")
        assert b"".join(bytes(chunk) for chunk in stream.chunks()) == b"at once echo"
        stream.close()


def test_an_engine_that_goes_away_is_unavailable(tmp_path: Path) -> None:
    with (
        serving(tmp_path / "s", lambda connection: None) as client,
        pytest.raises(Unavailable, match="closed the conn"),
    ):
        client.get("/")


def test_an_engine_that_is_not_there_is_started_once(tmp_path: Path) -> None:
    launched: list[int] = []
    client = Client(tmp_path / "none", lambda: launched.append(1))
    for _ in range(2):
        with pytest.raises(Unavailable, match="nothing listens there"):
            client.get("/")
    assert launched == [1]


def test_a_path_that_is_too_long_for_a_socket_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="too long"):
        Client(tmp_path / ("x" * 120)).get("/")


@pytest.mark.parametrize("host", ["unix:///run/x.sock", "/run/x.sock"])
def test_the_engines_socket_may_be_named(host: str) -> None:
    assert engine_socket(host) == Path("/run/x.sock")


@pytest.mark.parametrize("host", ["tcp://127.0.0.1:2375", "unix://", "ssh://x"])
def test_nothing_but_a_unix_socket_is_an_engine(host: str) -> None:
    with pytest.raises(InvalidRequest, match="unix socket only"):
        engine_socket(host)
