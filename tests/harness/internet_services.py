"""What there is in the fake internet, as a program: `python -m harness.internet_services` in its namespace.

A web server that answers with its client's address (`/bytes/N`: with N bytes), a resolver for the names of
`NAMES`, a metadata service that no container should ever reach, an echo of datagrams. It says `ready`, and then one
line for each visit: `web 203.0.113.2`.
"""

import asyncio
import ipaddress
import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

WEB = ("198.51.100.80", "2001:db8:80::80")
OTHER_WEB = "198.51.100.81"
RESOLVER = "198.51.100.53"
METADATA = "169.254.169.254"
ECHO_PORT = 7
ADDRESSES = (f"{WEB[0]}/32", f"{OTHER_WEB}/32", f"{RESOLVER}/32", f"{METADATA}/32", f"{WEB[1]}/128")

NAMES: dict[tuple[str, str], tuple[str, ...]] = {
    ("web.example.", "A"): (WEB[0],),
    ("web.example.", "AAAA"): (WEB[1],),
    ("other.example.", "A"): (OTHER_WEB,),
    # More than a datagram of 512 bytes holds, and more than one of 1232.
    ("big.example.", "A"): tuple(f"192.0.2.{number}" for number in range(1, 101)),
    ("alias.example.", "CNAME"): ("web.example.",),
}


async def main() -> None:
    """Serve until the process is ended."""
    loop = asyncio.get_running_loop()
    for address in (*WEB, OTHER_WEB):
        await asyncio.start_server(_web, address, 80)
    for address in WEB:
        await loop.create_datagram_endpoint(_Echo, (address, ECHO_PORT))
    await asyncio.start_server(_metadata, METADATA, 80)
    await asyncio.start_server(_resolver_stream, RESOLVER, 53)
    await loop.create_datagram_endpoint(_Resolver, (RESOLVER, 53))
    print("ready", flush=True)
    await asyncio.Event().wait()


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    peer = str(ipaddress.ip_address(writer.get_extra_info("peername")[0]))
    _visit("web", peer)
    await _answer(reader, writer, peer.encode() + b"\n")


async def _metadata(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _visit("metadata", writer.get_extra_info("peername")[0])
    await _answer(reader, writer, b"secret\n")


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes) -> None:
    try:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        length = int(path.removeprefix("/bytes/")) if path.startswith("/bytes/") else len(body)
        writer.write(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % length)
        if path.startswith("/bytes/"):
            for _ in range(length // 65536):
                writer.write(bytes(65536))
                await writer.drain()
            writer.write(bytes(length % 65536))
        else:
            writer.write(body)
        await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]  # its kind
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)


class _Resolver(_Echo):
    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        _visit("resolver", addr[0])
        query = dns.message.from_wire(data)
        room = max(512, query.payload) if query.edns >= 0 else 512
        answer = _resolved(query)
        wire = answer.to_wire(max_size=65535)
        if len(wire) > room:
            answer.answer.clear()
            answer.flags |= dns.flags.TC
            wire = answer.to_wire()
        self.transport.sendto(wire, addr)


async def _resolver_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    _visit("resolver", writer.get_extra_info("peername")[0])
    try:
        while True:
            (length,) = struct.unpack("!H", await reader.readexactly(2))
            wire = _resolved(dns.message.from_wire(await reader.readexactly(length))).to_wire(max_size=65535)
            writer.write(struct.pack("!H", len(wire)) + wire)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def _resolved(query: dns.message.Message) -> dns.message.Message:
    answer = dns.message.make_response(query, recursion_available=True)
    asked = query.question[0]
    name, kind = asked.name.to_text().lower(), dns.rdatatype.to_text(asked.rdtype)
    while target := NAMES.get((name, "CNAME")):
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", *target))
        name = target[0]
    if values := NAMES.get((name, kind)):
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", kind, *values))
    elif name not in {known for known, _ in NAMES}:
        answer.set_rcode(dns.rcode.NXDOMAIN)
    return answer


def _visit(service: str, client: str) -> None:
    print(service, client, flush=True)


if __name__ == "__main__":
    asyncio.run(main())
