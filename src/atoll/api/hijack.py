"""Taking a connection over from HTTP: attach and exec become a raw stream in both directions.

The server answers `101 UPGRADED` (or 200 to a client that did not ask to upgrade) and from there on the connection is
ours: aiohttp hears no more of it. Back-pressure goes both ways. A client that does not read stops the container's
process; a process that does not read its standard input stops the client. The client may shut down its sending side
(end of file for the process) and go on reading. Like any client that upgrades, it sends nothing before our answer
(RFC 9110, section 7.8).

Source: Docker Engine API reference, "Attach to a container", hijacking.
"""

import asyncio
import fcntl
import select
import socket
import termios
from collections.abc import Awaitable
from types import TracebackType
from typing import Literal, TypeVar

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_protocol import RequestHandler

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

T = TypeVar("T")

_HIJACKED = web.RequestKey("hijacked", bool)

_MOST_UNREAD_BYTES = 256 * 1024
# How often a client is looked at that has not read the head, and how long it takes from look to look.
_MOST_LOOKS, _LOOK_AGAIN_S = 500, 0.002


class ClientGone(Exception):
    """The client has closed the connection, or its reading side."""


class HijackedConnection(asyncio.Protocol):
    """The raw connection: `read` what the client sends, `write` to it. Leaving the block closes it."""

    def __init__(self, http: RequestHandler, transport: asyncio.Transport) -> None:
        self._http = http
        self._transport = transport
        self._is_head_read = False
        self._unread = bytearray()
        self._is_at_end = False
        self._is_gone = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed = asyncio.Event()
        # Reports nothing but the hang-up of the peer: not a half-close, which reading cannot tell from it.
        self._hang_up = select.epoll()
        self._hang_up.register(transport.get_extra_info("socket").fileno(), 0)
        self._has_hung_up = False
        asyncio.get_running_loop().add_reader(self._hang_up.fileno(), self._notice_hang_up)

    @classmethod
    def take(cls, request: web.Request, content_type: str) -> "HijackedConnection":
        """Answer `request` and take its connection; the handler then returns `Hijacked()`."""
        http, transport = request.protocol, request.transport
        if transport is None or not isinstance(transport, asyncio.Transport):
            raise ClientGone
        connection = cls(http, transport)
        request[_HIJACKED] = True
        upgrades = "upgrade" in request.headers.get("Connection", "").lower() and "Upgrade" in request.headers
        head = (
            f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {content_type}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
            if upgrades
            else f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n"
        )
        transport.set_protocol(connection)
        transport.resume_reading()
        transport.write(head.encode())
        return connection

    def __enter__(self) -> "HijackedConnection":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._transport.close()

    async def read(self) -> bytes:
        """What the client sent; nothing at its end of file. Raises `ClientGone` when it is not there any more."""
        while not self._unread:
            if self._is_gone:
                raise ClientGone
            if self._is_at_end:
                return b""
            self._readable.clear()
            await self._readable.wait()
        data = bytes(self._unread)
        self._unread.clear()
        if not self._is_at_end and not self._is_gone:
            self._transport.resume_reading()
        return data

    async def write(self, *parts: bytes) -> None:
        """Send all `parts`, waiting while the client does not read; raises `ClientGone`."""
        if not self._is_head_read:
            await self._wait_for_head()
        if self._is_gone:
            raise ClientGone
        self._transport.writelines(parts)
        if not self._writable.is_set():
            await self._writable.wait()
        if self._is_gone:
            raise ClientGone

    async def _wait_for_head(self) -> None:
        """Let the client read the head by itself: what docker-py reads along with it, it loses.

        Its HTTP client keeps that in a buffer, and nobody looks there. A busy client may be slower than a process.
        """
        self._is_head_read = True
        client = self._transport.get_extra_info("socket")
        if client.family != socket.AF_UNIX:
            return
        for _ in range(_MOST_LOOKS):
            if self._is_gone or not _unread_bytes(client.fileno()):
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def unless_gone(self, wait: Awaitable[T]) -> T:
        """The result of `wait`; raises `ClientGone` when the client leaves first."""
        waiting = asyncio.ensure_future(wait)
        gone = asyncio.ensure_future(self.gone())
        try:
            await asyncio.wait((waiting, gone), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise ClientGone
            return waiting.result()
        finally:
            waiting.cancel()
            gone.cancel()

    async def gone(self) -> None:
        """Wait until the client is not there any more."""
        await self._closed.wait()

    def data_received(self, data: bytes) -> None:
        """From the transport."""
        self._unread += data
        self._readable.set()
        if len(self._unread) >= _MOST_UNREAD_BYTES:
            self._transport.pause_reading()

    def eof_received(self) -> Literal[True]:
        """From the transport; we go on sending."""
        self._is_at_end = True
        self._readable.set()
        if self._has_hung_up:
            self._transport.abort()
        return True

    def _notice_hang_up(self) -> None:
        """The client is gone; what it sent before may still have to be read."""
        self._has_hung_up = True
        self._stop_watching()
        if self._is_at_end or not self._transport.is_reading():
            self._transport.abort()

    def _stop_watching(self) -> None:
        if not self._hang_up.closed:
            asyncio.get_running_loop().remove_reader(self._hang_up.fileno())
            self._hang_up.close()

    def pause_writing(self) -> None:
        """From the transport: the client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """From the transport."""
        self._writable.set()

    def connection_lost(self, error: Exception | None) -> None:
        """From the transport; aiohttp counts connections and must hear of the end."""
        self._stop_watching()
        self._is_gone = True
        self._closed.set()
        self._readable.set()
        self._writable.set()
        self._http.connection_lost(error)


class Hijacked(web.StreamResponse):
    """What a handler returns whose connection is not HTTP any more: nothing is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Send no head: it was sent when the connection was taken."""
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Send no end."""


def _unread_bytes(descriptor: int) -> int:
    """How much of what was sent over a unix socket lies with the kernel, by its own counting (unix(7), SIOCOUTQ)."""
    unread = bytearray(4)
    fcntl.ioctl(descriptor, termios.TIOCOUTQ, unread)
    return int.from_bytes(unread, "little")


def is_hijacked(request: web.Request) -> bool:
    """Whether the request's connection was taken."""
    return bool(request.get(_HIJACKED, False))


def peer_uid(transport: asyncio.BaseTransport) -> int:
    """The user id of the process at the other end of a unix socket."""
    connection = transport.get_extra_info("socket")
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    return int.from_bytes(credentials[4:8], "little")
