import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from atoll.api.hijack import ClientGone, Hijacked, HijackedConnection

Conversation = Callable[[HijackedConnection], Awaitable[None]]
UPGRADE = b"POST /talk HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 2\r\n\r\n{}"
PLAIN = b"POST /talk HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def serving(path: Path, conversation: Conversation) -> AsyncIterator[None]:
    async def talk(request: web.Request) -> web.StreamResponse:
        await request.read()
        with HijackedConnection.take(request, "text/raw") as connection, suppress(ClientGone):
            await conversation(connection)
        return Hijacked()

    app = web.Application()
    app.router.add_post("/talk", talk)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    await web.UnixSite(runner, os.fspath(path)).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def connect(path: Path, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_unix_connection(os.fspath(path))
    writer.write(request)
    return reader, writer, await reader.readuntil(b"\r\n\r\n")


async def echo_reversed(connection: HijackedConnection) -> None:
    received = bytearray()
    while data := await connection.read():
        received += data
    await connection.write(bytes(reversed(received)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


async def test_an_upgrade_is_answered_with_101_and_half_closing_leaves_the_other_half_open(path: Path) -> None:
    async with serving(path, echo_reversed):
        reader, writer, head = await connect(path, UPGRADE)
        assert head.startswith(b"HTTP/1.1 101 UPGRADED\r\nContent-Type: text/raw\r\n")
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read() == b"cba"
        writer.close()


async def test_a_client_that_does_not_ask_to_upgrade_gets_200(path: Path) -> None:
    async with serving(path, echo_reversed):
        reader, writer, head = await connect(path, PLAIN)
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        writer.write(b"abc")
        writer.write_eof()
        assert await reader.read() == b"cba"
        writer.close()


async def test_a_client_that_is_slow_to_read_the_head_reads_nothing_along_with_it(path: Path) -> None:
    async def speak_at_once(connection: HijackedConnection) -> None:
        await connection.write(b"at once")
        await connection.gone()

    async with serving(path, speak_at_once):
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, os.fspath(path))
            await loop.sock_sendall(client, UPGRADE)
            await asyncio.sleep(0.1)  # it is busy with something else
            assert (await loop.sock_recv(client, 4096)).endswith(b"\r\n\r\n")
            assert await loop.sock_recv(client, 4096) == b"at once"


async def test_a_client_that_never_reads_the_head_keeps_nobody_for_long(path: Path) -> None:
    written = asyncio.Event()

    async def speak_at_once(connection: HijackedConnection) -> None:
        await connection.write(b"at once")
        written.set()
        await connection.gone()

    async with serving(path, speak_at_once):
        _, writer = await asyncio.open_unix_connection(os.fspath(path), limit=1)
        writer.transport.pause_reading()
        writer.write(UPGRADE)
        async with asyncio.timeout(20):
            await written.wait()
        writer.close()


async def test_much_data_passes_both_ways_unchanged(path: Path) -> None:
    async def echo(connection: HijackedConnection) -> None:
        while data := await connection.read():
            await connection.write(data)

    sent, received = hashlib.sha256(), hashlib.sha256()
    async with serving(path, echo):
        reader, writer, _ = await connect(path, UPGRADE)

        async def send() -> None:
            for number in range(256):
                block = bytes([number]) * 65_537
                sent.update(block)
                writer.write(block)
                await writer.drain()
            writer.write_eof()

        async def receive() -> None:
            while data := await reader.read(1 << 16):
                received.update(data)

        await asyncio.gather(send(), receive())
        writer.close()
    assert sent.digest() == received.digest()


async def test_a_client_that_does_not_read_stops_the_writer(path: Path) -> None:
    written = 0
    stuck = asyncio.Event()

    async def flood(connection: HijackedConnection) -> None:
        nonlocal written
        while True:
            writing = asyncio.ensure_future(connection.write(bytes(65_536)))
            if not (await asyncio.wait([writing], timeout=0.5))[0]:
                stuck.set()
            await writing
            written += 65_536

    with socket.socket(socket.AF_UNIX) as client:
        async with serving(path, flood):
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, os.fspath(path))
            await loop.sock_sendall(client, UPGRADE)
            await stuck.wait()
            assert written < 2 << 20


async def test_a_process_that_does_not_read_stops_the_client(path: Path) -> None:
    hold = asyncio.Event()

    async def never_read(connection: HijackedConnection) -> None:
        await hold.wait()

    with socket.socket(socket.AF_UNIX) as client:
        async with serving(path, never_read):
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, os.fspath(path))
            await loop.sock_sendall(client, UPGRADE)
            await loop.sock_recv(client, 4096)
            sent = 0
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    while sent < 8 << 20:
                        await loop.sock_sendall(client, bytes(65_536))
                        sent += 65_536
            assert sent < 2 << 20
            hold.set()


async def test_a_client_that_hangs_up_is_noticed_by_whoever_waits(path: Path) -> None:
    noticed = asyncio.Event()

    async def wait_for_something_else(connection: HijackedConnection) -> None:
        try:
            await connection.unless_gone(asyncio.Event().wait())
        except (ClientGone, asyncio.CancelledError):
            noticed.set()
            raise

    async with serving(path, wait_for_something_else):
        _, writer, _ = await connect(path, UPGRADE)
        writer.transport.abort()
        async with asyncio.timeout(10):
            await noticed.wait()
