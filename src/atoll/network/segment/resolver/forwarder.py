"""Questions that the network cannot answer, passed on to the host's resolvers as they came.

Only the number is another, unpredictable and from one of several sockets with ports of their own; an answer counts
if number, question and sender are those that were asked. A resolver that fails is followed by the next.
"""

import asyncio
import ipaddress
import random
import secrets
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

import dns.rcode

from atoll.errors import AtollError
from atoll.network.segment.resolver.message import answers, number_of, numbered, rcode_of

_DNS_PORT = 53
_SOCKETS = 8
_MOST_USES = 256
# The C library asks again after 5 seconds: before that it is to know.
_PATIENCE_S = 4.5
_LONGEST_TRY_S = 2.0
_TCP_TRY_S = 4.0
# A resolver that has not answered is asked after the others for so long.
_GRUDGE_S = 15.0
_FAILURES = (dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NOTIMP, dns.rcode.FORMERR)


class Outlet(Protocol):
    """What is used of the segment's outlet: sockets that are outside, in the host's network."""

    async def datagram(self, family: int) -> socket.socket:
        """A UDP socket, not connected, not blocking."""

    async def connect(self, ip: str, port: int) -> socket.socket:
        """A TCP connection, not blocking."""


class Forwarder:
    """The resolvers of a network: `address` or `address#port` each."""

    def __init__(self, outlet: Outlet, resolvers: Sequence[str]) -> None:
        self._outlet = outlet
        self._resolvers = resolvers
        self._failed_at: dict[tuple[str, int], float] = {}
        self._pools: dict[int, list[_Asking | None]] = {}

    async def ask(self, wire: bytes, over_tcp: bool, resolvers: Sequence[str] = ()) -> bytes | None:
        """The answer to a question, with its number; None if no resolver gave one in time.

        `resolvers`, if there are any, are asked instead of the network's.
        """
        order = self._order(resolvers or self._resolvers)
        tries = order if len(order) > 1 or over_tcp else order * 2
        patience = min(_LONGEST_TRY_S, _PATIENCE_S / max(len(tries), 1))
        refusal: bytes | None = None
        for resolver in tries:
            asked = numbered(wire, secrets.randbelow(0x10000))
            try:
                if over_tcp:
                    async with asyncio.timeout(_TCP_TRY_S):
                        answer = await self._ask_tcp(resolver, asked)
                else:
                    async with asyncio.timeout(patience):
                        answer = await self._ask_udp(resolver, asked)
            except (OSError, AtollError, EOFError):  # TimeoutError is an OSError, IncompleteReadError an EOFError
                self._failed_at[resolver] = time.monotonic()
                continue
            self._failed_at.pop(resolver, None)
            if rcode_of(answer) not in _FAILURES:
                return numbered(answer, number_of(wire))
            refusal = numbered(answer, number_of(wire))
        return refusal

    def close(self) -> None:
        """Close the sockets; who still waits gets no answer."""
        for pool in self._pools.values():
            for asking in filter(None, pool):
                asking.close()
        self._pools.clear()

    def _order(self, resolvers: Sequence[str]) -> list[tuple[str, int]]:
        now = time.monotonic()
        known = filter(None, map(_endpoint, resolvers))
        return sorted(known, key=lambda resolver: now - self._failed_at.get(resolver, -_GRUDGE_S) < _GRUDGE_S)

    async def _ask_udp(self, resolver: tuple[str, int], asked: bytes) -> bytes:
        asking = await self._asking(_family(resolver[0]))
        return await asking.ask(resolver, asked)

    async def _ask_tcp(self, resolver: tuple[str, int], asked: bytes) -> bytes:
        connection = await self._outlet.connect(*resolver)
        try:
            reader, writer = await asyncio.open_connection(sock=connection)
        except BaseException:
            connection.close()
            raise
        try:
            writer.write(len(asked).to_bytes(2, "big") + asked)
            await writer.drain()
            answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        finally:
            writer.close()
        if not answers(answer, asked):
            raise ConnectionError("a resolver answered something else")
        return answer

    async def _asking(self, family: int) -> "_Asking":
        pool = self._pools.setdefault(family, [None] * _SOCKETS)
        place = random.randrange(_SOCKETS)
        asking = pool[place]
        if asking is not None and not asking.is_worn:
            return asking
        fresh = await _Asking.open(self._outlet, family)
        if self._pools.get(family) is not pool:
            fresh.close()
            raise ConnectionError("the resolvers have changed")
        if (worn := pool[place]) is not None:
            worn.retire()
        pool[place] = fresh
        return fresh


@dataclass
class _Pending:
    resolver: tuple[str, int]
    asked: bytes
    answer: asyncio.Future[bytes]


@dataclass(eq=False)
class _Asking(asyncio.DatagramProtocol):
    """One socket that asks, until it was used often enough that its port may be known."""

    _transport: asyncio.DatagramTransport | None = None
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _uses: int = 0
    _is_retired: bool = False

    @classmethod
    async def open(cls, outlet: Outlet, family: int) -> "_Asking":
        opened = await outlet.datagram(family)
        try:
            _, asking = await asyncio.get_running_loop().create_datagram_endpoint(cls, sock=opened)
        except BaseException:
            opened.close()
            raise
        return asking

    @property
    def is_worn(self) -> bool:
        return self._uses >= _MOST_USES or self._transport is None or self._transport.is_closing()

    async def ask(self, resolver: tuple[str, int], asked: bytes) -> bytes:
        number = number_of(asked)
        while number in self._pending:
            number = secrets.randbelow(0x10000)
        asked = numbered(asked, number)
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the resolvers have changed")
        self._uses += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(resolver, asked, answer)
        try:
            self._transport.sendto(asked, resolver)
            return await answer
        finally:
            del self._pending[number]
            if self._is_retired and not self._pending:
                self.close()

    def retire(self) -> None:
        """Close it when all its questions have been answered, or given up."""
        self._is_retired = True
        if not self._pending:
            self.close()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(ConnectionError("the resolvers have changed"))

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # its kind
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.close()

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        pending = self._pending.get(number_of(data))
        if pending is None or pending.answer.done() or not _is_from(pending.resolver, addr):
            return
        if answers(data, pending.asked):
            pending.answer.set_result(data)


def _endpoint(text: str) -> tuple[str, int] | None:
    """Address and port; None for what the segment cannot send to, like an address that means a link of the host."""
    address, _, port = text.partition("#")
    if "%" in address:
        return None
    with suppress(ValueError):
        return str(ipaddress.ip_address(address)), int(port or _DNS_PORT)
    return None


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _is_from(resolver: tuple[str, int], sender: tuple[str, int]) -> bool:
    address, port, *_ = sender
    return port == resolver[1] and ipaddress.ip_address(address) == ipaddress.ip_address(resolver[0])
