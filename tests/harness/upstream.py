"""A resolver that tests ask: real sockets, UDP and TCP, and bad manners on demand."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Manners = Callable[[dns.message.Message, bytes], Awaitable[list[bytes]] | list[bytes]]
"""What is sent back for a question that came over UDP."""


class Upstream:
    """Knows every name: `big.*` has 100 addresses, `gone.*` is not there, others have the address of `answers`."""

    def __init__(self, answers: dict[str, str] | None = None, manners: Manners | None = None) -> None:
        self.answers = {"A": "192.0.2.7", "AAAA": "2001:db8::7", **(answers or {})}
        self.manners = manners or self.well
        self.asked: list[tuple[str, dns.message.Message]] = []
        self.senders: set[tuple[str, int]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closers: list[Callable[[], None]] = []
        self.address = ""

    async def serve(self, datagrams: socket.socket, connections: socket.socket) -> "Upstream":
        """Serve on bound sockets."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: _Datagrams(self), sock=datagrams)
        server = await asyncio.start_server(self._connection, sock=connections)
        self._closers += [transport.close, server.close]
        address, port, *_ = datagrams.getsockname()
        self.address = f"{address}#{port}"
        return self

    def close(self) -> None:
        """Serve no more."""
        for closer in self._closers:
            closer()
        for task in self._tasks:
            task.cancel()

    def well(self, query: dns.message.Message, wire: bytes) -> list[bytes]:
        """The answer as it should be, cut to what the client takes."""
        room = max(512, query.payload) if query.edns >= 0 else 512
        return [self.answer(query).to_wire(max_size=room, prefer_truncation=True)]

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """The whole answer."""
        response = dns.message.make_response(query, recursion_available=True)
        asked = query.question[0]
        name = asked.name.to_text().lower()
        kind = dns.rdatatype.to_text(asked.rdtype)
        if name.startswith("gone."):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif name.startswith("big.") and kind == "A":
            response.answer.append(
                dns.rrset.from_text(asked.name, 60, "IN", kind, *(f"192.0.2.{n}" for n in range(100)))
            )
        elif kind in self.answers:
            response.answer.append(dns.rrset.from_text(asked.name, 60, "IN", kind, self.answers[kind]))
        return response

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            wire = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
            query = dns.message.from_wire(wire)
            self.asked.append(("tcp", query))
            answer = self.answer(query).to_wire(max_size=65535)
            writer.write(len(answer).to_bytes(2, "big") + answer)
            await writer.drain()
        except EOFError:
            pass
        finally:
            writer.close()

    def received(self, transport: asyncio.DatagramTransport, wire: bytes, sender: tuple[str, int]) -> None:
        """A datagram has come."""
        query = dns.message.from_wire(wire)
        self.asked.append(("udp", query))
        self.senders.add(sender)
        task = asyncio.get_running_loop().create_task(self._send(transport, self.manners(query, wire), sender))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(
        self,
        transport: asyncio.DatagramTransport,
        answers: Awaitable[list[bytes]] | list[bytes],
        receiver: tuple[str, int],
    ) -> None:
        for answer in answers if isinstance(answers, list) else await answers:
            transport.sendto(answer, receiver)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # its kind
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._upstream.received(self._transport, data, addr)


def bound(address: str, port: int = 0) -> tuple[socket.socket, socket.socket]:
    """A UDP and a TCP socket at the same port of `address`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for _ in range(20):
        datagrams = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        datagrams.bind((address, port))
        try:
            return datagrams, socket.create_server((address, datagrams.getsockname()[1]), family=family)
        except OSError:
            datagrams.close()
    raise AssertionError("no port is free for both")
