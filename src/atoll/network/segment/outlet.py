"""The part of a segment that stays outside: in the host's network namespace, and in its user namespace.

    sock = fork_outlet()        # before anything is entered
    ...                         # enter the namespaces, or become a program that does
    outlet = Outlet(sock)       # in the loop
    listener = await outlet.listen("127.0.0.1", 8080)

A socket belongs to the namespace that it was made in, whoever holds it. So the outlet only makes sockets and passes
them on; what travels over them is the segment's. It makes the way out too (`uplink/`), and removes it when the segment
has ended. The two talk over a pair of sockets: when one of them dies, the other one reads its end, and ends.
"""

import asyncio
import errno
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from msgspec import Struct

from atoll.errors import AtollError, Conflict, InvalidRequest, Unavailable, from_code
from atoll.network.segment.uplink.link import Link, Wish
from atoll.network.segment.uplink.outside import Outside

_LOG = logging.getLogger(__name__)
_MESSAGE_BYTES = 16 << 10
_BACKLOG = 4096


class _Request(Struct, frozen=True, kw_only=True):
    """What the segment asks for. `wish` with the segment's network and user namespace as descriptors; no wish: none."""

    verb: Literal["listen", "bind", "stream", "datagram", "uplink"]
    ip: str = ""
    port: int = 0
    wish: Wish | None = None


class _Answer(Struct, frozen=True, kw_only=True):
    """The answer: `number` is an errno and `code` an `AtollError`'s; without either, sockets come as descriptors."""

    number: int = 0
    code: str = ""
    message: str = ""
    link: Link | None = None


def fork_outlet() -> socket.socket:
    """Fork the outlet of this process; the socket to it, for `Outlet`. Call it while there is one thread and no loop.

    Who becomes another program (nsenter) first makes the socket inheritable.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        status = 1
        try:
            ours.close()
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            _serve(theirs)
            status = 0
        except SystemExit:
            status = 0
        except BaseException:
            _LOG.exception("the outlet ends")
        finally:
            os._exit(status)
    theirs.close()
    return ours


class Outlet:
    """The outlet as the segment uses it. Requests are answered in their order."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[tuple[_Answer, list[int]]]] = deque()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(sock, self._read)

    async def listen(self, ip: str, port: int) -> socket.socket:
        """A TCP listener at the host's `ip` and `port`; raises `Conflict` or `InvalidRequest` in Docker's words."""
        return await self._bound("listen", ip, port)

    async def bind(self, ip: str, port: int) -> socket.socket:
        """A UDP socket at the host's `ip` and `port`; raises like `listen`."""
        return await self._bound("bind", ip, port)

    async def datagram(self, family: int) -> socket.socket:
        """A UDP socket of the host's, at any port."""
        answer, sock = await self._socket(
            _Request(verb="datagram", ip="::" if family == socket.AF_INET6 else "0.0.0.0")
        )
        if sock is None:
            raise Unavailable(f"the host gives no UDP socket: {os.strerror(answer.number)}")
        return sock

    async def connect(self, ip: str, port: int) -> socket.socket:
        """A TCP connection from the host to `ip` and `port`; raises `OSError`. The caller sets the deadline."""
        answer, sock = await self._socket(_Request(verb="stream", ip=ip))
        if sock is None:
            raise OSError(answer.number, os.strerror(answer.number))
        try:
            await self._loop.sock_connect(sock, (ip, port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def uplink(self, wish: Wish | None) -> Link | None:
        """Make the way out that is wished for, keep it, or remove it. Raises `Unavailable`."""
        if wish is None:
            answer, _ = await self._call(_Request(verb="uplink"), [])
        else:
            with open("/proc/self/ns/net") as net, open("/proc/self/ns/user") as user:  # noqa: ASYNC230, PTH123
                answer, _ = await self._call(_Request(verb="uplink", wish=wish), [net.fileno(), user.fileno()])
        if answer.code:
            raise from_code(answer.code, answer.message)
        return answer.link

    async def wait_closed(self) -> None:
        """Wait until the outlet has ended."""
        await asyncio.shield(self._closed)

    def close(self) -> None:
        """Let the outlet end; whoever waits for an answer gets `Unavailable`."""
        if self._closed.done():
            return
        self._closed.set_result(None)
        self._loop.remove_reader(self._sock)
        self._sock.close()
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(Unavailable("the network's process outside has ended"))

    async def _bound(self, verb: Literal["listen", "bind"], ip: str, port: int) -> socket.socket:
        answer, sock = await self._socket(_Request(verb=verb, ip=ip, port=port))
        if sock is None:
            raise _refusal(answer.number, "tcp" if verb == "listen" else "udp", ip, port)
        return sock

    async def _socket(self, request: _Request) -> tuple[_Answer, socket.socket | None]:
        answer, descriptors = await self._call(request, [])
        if answer.number:
            return answer, None
        sock = socket.socket(fileno=descriptors[0])
        sock.setblocking(False)
        return answer, sock

    async def _call(self, request: _Request, descriptors: Sequence[int]) -> tuple[_Answer, list[int]]:
        if self._closed.done():
            raise Unavailable("the network's process outside has ended")
        waiter: asyncio.Future[tuple[_Answer, list[int]]] = self._loop.create_future()
        try:
            socket.send_fds(self._sock, [msgspec.msgpack.encode(request)], descriptors)
        except OSError as error:
            raise Unavailable(f"the network's process outside does not listen: {error}") from error
        self._waiting.append(waiter)
        return await waiter

    def _read(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._sock, _MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError:
            message, descriptors = b"", []
        if not message:
            self.close()
            return
        waiter = self._waiting.popleft()
        if waiter.done():  # whoever asked was cancelled
            for descriptor in descriptors:
                os.close(descriptor)
        else:
            waiter.set_result((msgspec.msgpack.decode(message, type=_Answer), descriptors))


def _refusal(number: int, protocol: str, ip: str, port: int) -> AtollError:
    address = f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
    if number == errno.EADDRINUSE:
        return Conflict(f"Bind for {address}/{protocol} failed: port is already allocated")
    words = f"failed to bind host port {address}/{protocol}: {os.strerror(number).lower()}"
    if number == errno.EACCES:
        words += ": ports below net.ipv4.ip_unprivileged_port_start need root, or a lower value of it"
    return InvalidRequest(words)


def _serve(sock: socket.socket) -> None:
    """Answer until the segment has ended; then remove what was made outside."""
    outside = Outside()
    try:
        while True:
            message, descriptors, _, _ = socket.recv_fds(sock, _MESSAGE_BYTES, 2)
            if not message:
                return
            try:
                request = msgspec.msgpack.decode(message, type=_Request)
                answer, made = _answer(request, outside, descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            with suppress(BrokenPipeError):
                socket.send_fds(sock, [msgspec.msgpack.encode(answer)], [made.fileno()] if made else [])
            if made is not None:
                made.close()
    finally:
        outside.close()


def _answer(request: _Request, outside: Outside, descriptors: Sequence[int]) -> tuple[_Answer, socket.socket | None]:
    try:
        if request.verb == "uplink":
            return _Answer(link=outside.make(request.wish, descriptors)), None
        return _Answer(), _open(request)
    except AtollError as error:
        return _Answer(code=error.code, message=str(error)), None
    except OSError as error:
        return _Answer(number=error.errno or errno.EIO, message=str(error)), None


def _open(request: _Request) -> socket.socket:
    family = socket.AF_INET6 if ":" in request.ip else socket.AF_INET
    kind = socket.SOCK_STREAM if request.verb in ("listen", "stream") else socket.SOCK_DGRAM
    sock = socket.socket(family, kind)
    try:
        if request.verb in ("listen", "bind"):
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if request.verb == "listen":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((request.ip, request.port))
        if request.verb == "listen":
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
