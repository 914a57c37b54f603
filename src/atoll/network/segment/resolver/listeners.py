"""Port 53 of the gateway's addresses, over UDP and TCP: who asks, how much of it at once, and the way back.

A guest may flood: what one endpoint has under way is bounded, so that the others are served. Over UDP too much is
dropped, as a network may; over TCP a connection too many is closed.
"""

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from atoll.errors import VmFailed

_logger = logging.getLogger(__name__)

Answer = Callable[[bytes, str, bool], Awaitable[bytes | None] | bytes | None]
"""The answer to a message from an address, over TCP or not; at once where nobody else has to be asked."""

_QUESTIONS_EACH = 128
_QUESTIONS_TOGETHER = 4096
_CONNECTIONS_EACH = 16
_IDLE_S = 10.0
_BACKLOG = 64
_RECEIVED_BYTES = 4 << 20
# <linux/in.h>, <linux/in6.h>; Python does not have them.
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78


class Listeners:
    """The sockets of one network's resolver."""

    def __init__(self, answer: Answer, port: int) -> None:
        self._answer = answer
        self._port = port
        self._open: dict[str, tuple[_Datagrams, asyncio.Server]] = {}
        self._questions: Counter[str] = Counter()
        self._connections: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, addresses: Iterable[str]) -> None:
        """Listen at these addresses and no others. Raises `VmFailed`."""
        wanted = set(addresses)
        for address in self._open.keys() - wanted:
            await self._close(address)
        for address in wanted - self._open.keys():
            try:
                self._open[address] = await self._listen_at(address)
            except OSError as error:
                raise VmFailed(f"the network's resolver cannot listen at {address}: {error.strerror}") from None

    async def close(self) -> None:
        """Close all, also what is under way."""
        for address in list(self._open):
            await self._close(address)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen_at(self, address: str) -> tuple["_Datagrams", asyncio.Server]:
        datagrams = _bound(address, self._port, socket.SOCK_DGRAM)
        try:
            # What one guest may send at once (egress_rules) has room, so that another's question is not lost behind it.
            datagrams.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_BYTES)
            connections = _bound(address, self._port, socket.SOCK_STREAM)
        except OSError:
            datagrams.close()
            raise
        _, receiver = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Datagrams(self._datagram), sock=datagrams
        )
        server = await asyncio.start_server(self._connection, sock=connections, backlog=_BACKLOG)
        return receiver, server

    async def _close(self, address: str) -> None:
        receiver, server = self._open.pop(address)
        server.close()
        await receiver.close()

    def _datagram(self, transport: asyncio.DatagramTransport, message: bytes, sender: tuple[str, int]) -> None:
        address = sender[0]
        if self._questions[address] >= _QUESTIONS_EACH or self._questions.total() >= _QUESTIONS_TOGETHER:
            return
        try:
            answer = self._answer(message, address, False)
        except Exception:
            _logger.exception("a question from %s was not answered", address)
            return
        if answer is None or isinstance(answer, bytes):
            _send(transport, answer, sender)
            return
        self._questions[address] += 1
        task = asyncio.get_running_loop().create_task(self._later(transport, answer, sender))
        self._tasks.add(task)
        task.add_done_callback(partial(self._answered, address))

    async def _later(
        self, transport: asyncio.DatagramTransport, answer: Awaitable[bytes | None], sender: tuple[str, int]
    ) -> None:
        try:
            _send(transport, await answer, sender)
        except Exception:
            _logger.exception("a question from %s was not answered", sender[0])

    def _answered(self, address: str, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        _less(self._questions, address)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        address: str = (writer.get_extra_info("peername") or ("",))[0]
        self._connections[address] += 1
        try:
            if self._connections[address] <= _CONNECTIONS_EACH:
                await self._converse(reader, writer, address)
        except (OSError, EOFError):
            pass  # it went, or had nothing to say
        except Exception:
            _logger.exception("a connection from %s was given up", address)
        finally:
            writer.close()
            self._tasks.discard(task)
            _less(self._connections, address)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        """One question after the other: an answer that is not taken stops the reading."""
        while True:
            async with asyncio.timeout(_IDLE_S):
                message = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            answer = self._answer(message, address, True)
            if answer is not None and not isinstance(answer, bytes):
                answer = await answer
            if answer is None:
                return
            async with asyncio.timeout(_IDLE_S):
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, received: Callable[[asyncio.DatagramTransport, bytes, tuple[str, int]], None]) -> None:
        self._received = received
        self._transport: asyncio.DatagramTransport | None = None
        self._is_closed = asyncio.Event()

    async def close(self) -> None:
        """The port is free when this is done."""
        if self._transport is not None:
            self._transport.abort()
            await self._is_closed.wait()

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # its kind
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_closed.set()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._received(self._transport, data, addr)


def _send(transport: asyncio.DatagramTransport, answer: bytes | None, receiver: tuple[str, int]) -> None:
    if answer is not None and not transport.is_closing():
        transport.sendto(answer, receiver)


def _less(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]


def _bound(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    opened = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(kind == socket.SOCK_STREAM))
        # An IPv6 address that the bridge has just got is not usable for a moment, and may come after us.
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        opened.bind((address, port))
    except OSError:
        opened.close()
        raise
    return opened
