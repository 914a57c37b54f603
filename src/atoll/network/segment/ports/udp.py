"""UDP: a published port, and its flows, one for each client and the address that it has come to.

A flow ends when nothing was said for a while. When there are too many, the one that was silent longest goes.
"""

import errno
import logging
import socket
import struct
import time
from collections import OrderedDict

from atoll.network.segment.ports.budget import Budget
from atoll.network.segment.ports.forwarder import Forwarder
from atoll.network.segment.ports.source import Source, pretend
from atoll.network.segment.ports.target import Target

_LOG = logging.getLogger(__name__)
_DATAGRAM_BYTES = 1 << 16
_TURN = 64
_IN_PKTINFO = struct.Struct("=I4s4s")
_IN6_PKTINFO = struct.Struct("=16sI")
_IPV6_RECVPKTINFO = 49
_IPV6_PKTINFO = 50
_IP_PKTINFO = 8

Address = tuple[str, int] | tuple[str, int, int, int]


class Port:
    """A published UDP port. It and its flows are the forwarder's thread's."""

    def __init__(
        self,
        forwarder: Forwarder,
        source: Source,
        budget: Budget,
        sock: socket.socket,
        target: Target,
        silence_s: float,
    ) -> None:
        self.target = target
        self._forwarder = forwarder
        self._source = source
        self._budget = budget
        self._sock = sock
        self._silence_s = silence_s
        self._flows: OrderedDict[tuple[Address, str], Flow] = OrderedDict()
        self._is_complaining = False
        # A client is answered from the address that it has written to, of which the host may have many.
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.SOL_IP, _IP_PKTINFO, 1)
        forwarder.watch(sock.fileno(), self._receive)
        forwarder.each_second(self._tick)

    def close(self) -> None:
        """Receive no more, and end all flows."""
        self._forwarder.no_more_seconds(self._tick)
        self._forwarder.forget(self._sock.fileno())
        self._sock.close()
        while self._flows:
            self._end(next(iter(self._flows)))

    def move(self, target: Target) -> None:
        """The container has other addresses now; flows begin anew."""
        self.target = target
        while self._flows:
            self._end(next(iter(self._flows)))

    def answer(self, flow: "Flow", datagram: bytes) -> None:
        """Send what the container says to the flow's client."""
        self._flows.move_to_end(flow.key)
        client, asked = flow.key
        packed = socket.inet_pton(self._sock.family, asked)
        if self._sock.family == socket.AF_INET6:
            level, kind, data = socket.IPPROTO_IPV6, _IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, 0)
        else:
            level, kind, data = socket.SOL_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, packed, bytes(4))
        try:
            self._sock.sendmsg([datagram], [(level, kind, data)], 0, client)
        except OSError as error:
            _LOG.debug("an answer to %s is lost: %s", client[0], error)

    def _receive(self) -> None:
        for _ in range(_TURN):
            if self._sock.fileno() < 0:
                return
            try:
                datagram, ancillary, _, client = self._sock.recvmsg(_DATAGRAM_BYTES, 128)
            except BlockingIOError:
                return
            except OSError:
                continue  # the network's word on an earlier answer
            flow = self._flow(client, _destination(ancillary))
            if flow is not None:
                flow.send(datagram)
        self._forwarder.again(self._receive)

    def _flow(self, client: Address, asked: str) -> "Flow | None":
        key = (client, asked)
        flow = self._flows.get(key)
        if flow is not None:
            self._flows.move_to_end(key)
            return flow
        if not self._budget.is_left():
            if not self._is_complaining:
                _LOG.warning("the published port %s/udp has as many flows as it may have", self.target.port)
                self._is_complaining = True
            if not self._flows:
                return None
            self._end(next(iter(self._flows)))
        try:
            sock = self._connect(client, asked)
        except OSError as error:
            _LOG.debug("a client has no flow: %s", error)
            return None
        self._budget.take()
        flow = self._flows[key] = Flow(self, self._forwarder, sock, key)
        return flow

    def _connect(self, client: Address, asked: str) -> socket.socket:
        target = self.target.address(self._sock.family)
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if self._source.can_be(client[0], target, asked):
                try:
                    pretend(sock, client[0], client[1])
                except OSError as error:
                    _LOG.debug("%s cannot be seen by %s: %s", client[0], target, error)
            sock.connect((target, self.target.port))
        except BaseException:
            sock.close()
            raise
        return sock

    def _end(self, key: tuple[Address, str]) -> None:
        self._flows.pop(key).close()
        self._budget.give_back()

    def _tick(self, now: float) -> None:
        self._is_complaining = False
        # In the order in which something was said last.
        while self._flows:
            key, flow = next(iter(self._flows.items()))
            if now - flow.spoken_at < self._silence_s:
                return
            self._end(key)


class Flow:
    """What one client and the container say to each other."""

    def __init__(self, port: Port, forwarder: Forwarder, sock: socket.socket, key: tuple[Address, str]) -> None:
        self.key = key
        self.spoken_at = time.monotonic()
        self._port = port
        self._forwarder = forwarder
        self._sock = sock
        forwarder.watch(sock.fileno(), self._receive)

    def send(self, datagram: bytes) -> None:
        """Pass on what the client says."""
        self.spoken_at = time.monotonic()
        try:
            self._sock.send(datagram)
        except OSError as error:
            # Nobody listens there: the kernel's word on an earlier one, and not on this.
            if error.errno == errno.ECONNREFUSED:
                try:
                    self._sock.send(datagram)
                except OSError as again:
                    _LOG.debug("a datagram is lost: %s", again)

    def close(self) -> None:
        """End it."""
        self._forwarder.forget(self._sock.fileno())
        self._sock.close()

    def _receive(self) -> None:
        for _ in range(_TURN):
            if self._sock.fileno() < 0:
                return
            try:
                datagram = self._sock.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError:
                continue
            self.spoken_at = time.monotonic()
            self._port.answer(self, datagram)
        self._forwarder.again(self._receive)


def _destination(ancillary: list[tuple[int, int, bytes]]) -> str:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_IP, _IP_PKTINFO):
            return socket.inet_ntop(socket.AF_INET, _IN_PKTINFO.unpack(data[: _IN_PKTINFO.size])[2])
        if (level, kind) == (socket.IPPROTO_IPV6, _IPV6_PKTINFO):
            return socket.inet_ntop(socket.AF_INET6, data[:16])
    return ""
