"""TCP: a listener, and its connections, whose bytes are spliced from one socket to the other.

Each direction ends by itself: its last byte is followed by a half-close. A reset of one side is passed on to the other
once what came before it has been delivered.
"""

import errno
import logging
import os
import socket
import struct
import time
from contextlib import suppress
from functools import partial

from atoll.network.segment.ports.budget import Budget
from atoll.network.segment.ports.forwarder import Forwarder
from atoll.network.segment.ports.pipes import PIPE_BYTES, Pipe, Pipes
from atoll.network.segment.ports.source import Source, pretend
from atoll.network.segment.ports.target import Target

_LOG = logging.getLogger(__name__)
_TURN_BYTES = 4 << 20
_ACCEPTS_A_TURN = 64
_SILENCE_S = 30.0
_KEEPALIVE_S = 60
_RESET = struct.pack("ii", 1, 0)


class Listener:
    """A published TCP port. It and all below it are the forwarder's thread's."""

    def __init__(
        self, forwarder: Forwarder, pipes: Pipes, source: Source, budget: Budget, sock: socket.socket, target: Target
    ) -> None:
        self.forwarder = forwarder
        self.pipes = pipes
        self.source = source
        self.target = target
        self._budget = budget
        self._sock = sock
        self._name = "{}:{}".format(*sock.getsockname()[:2])
        self._connections: set[Connection] = set()
        self._is_full = False
        forwarder.watch(sock.fileno(), self._accept)
        forwarder.each_second(self._tick)

    def close(self) -> None:
        """Listen no more, and reset all connections."""
        self.forwarder.no_more_seconds(self._tick)
        self.forwarder.forget(self._sock.fileno())
        self._sock.close()
        for connection in tuple(self._connections):
            connection.abort()

    def move(self, target: Target) -> None:
        """The container has other addresses now; connections to the old ones are reset."""
        self.target = target
        for connection in tuple(self._connections):
            connection.abort()

    def ended(self, connection: "Connection") -> None:
        """A connection is no more."""
        self._connections.discard(connection)
        self._budget.give_back()
        if self._is_full:
            self.forwarder.again(self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_A_TURN):
            if self._sock.fileno() < 0:
                return
            if not self._budget.is_left():
                self._wait("it has as many connections as it may have")
                return
            try:
                client, address = self._sock.accept()
            except BlockingIOError:
                self._is_full = False
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    self._wait(str(error))
                    return
                continue  # that client has gone already
            self._budget.take()
            self._connections.add(connection := Connection(self, client, address))
            connection.begin()
        self.forwarder.again(self._accept)

    def _wait(self, why: str) -> None:
        """Others wait in the kernel, which turns away those that it has no place for."""
        if not self._is_full:
            _LOG.warning("the published port %s takes no connections for now: %s", self._name, why)
        self._is_full = True

    def _tick(self, now: float) -> None:
        if self._is_full:
            self._accept()
        for connection in [one for one in self._connections if one.is_late(now)]:
            connection.abort()


class Connection:
    """A client's connection, and the one to the container."""

    def __init__(self, listener: Listener, client: socket.socket, address: tuple[str, int]) -> None:
        self._listener = listener
        self._client = client
        self._address = address
        self._container: socket.socket | None = None
        self._late_at = time.monotonic() + _SILENCE_S
        self._is_connected = False
        self._is_reset = False
        self._to_container: Direction | None = None
        self._to_client: Direction | None = None

    def begin(self) -> None:
        """Connect to the container."""
        self._client.setblocking(False)
        try:
            self._container = self._connect()
        except OSError as error:
            _LOG.debug("a client cannot be connected: %s", error)
            self.abort()
            return
        for sock in (self._client, self._container):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
        self._listener.forwarder.watch(self._container.fileno(), self._react_to_container)

    def is_late(self, now: float) -> bool:
        """Whether the container has not answered in time."""
        return not self._is_connected and now > self._late_at

    def abort(self) -> None:
        """Reset both sides."""
        self._is_reset = True
        self._close()

    def _connect(self) -> socket.socket:
        target = self._listener.target.address(self._client.family)
        client, port = self._address[:2]
        if self._listener.source.can_be(client, target, self._client.getsockname()[0]):
            # The same port too, unless it has been used towards this container a moment ago.
            for source_port in (port, 0):
                try:
                    return self._connect_to(target, client, source_port)
                except OSError as error:
                    _LOG.debug("%s cannot be seen by %s: %s", client, target, error)
        return self._connect_to(target, "", 0)

    def _connect_to(self, target: str, client: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            if client:
                pretend(sock, client, port)
            number = sock.connect_ex((target, self._listener.target.port))
            if number not in (0, errno.EINPROGRESS):
                raise OSError(number, os.strerror(number))
        except BaseException:
            sock.close()
            raise
        return sock

    def _react_to_container(self) -> None:
        if self._container is None or not (self._is_connected or self._note_connected(self._container)):
            return
        self._react(self._to_client, self._to_container)

    def _react_to_client(self) -> None:
        self._react(self._to_container, self._to_client)

    def _react(self, from_it: "Direction | None", to_it: "Direction | None") -> None:
        """Something may have become possible at a socket: there are bytes from it, or room for those to it."""
        if from_it is not None and to_it is not None:
            if to_it.is_blocked:
                self._pump(to_it)
            self._pump(from_it)

    def _pump(self, direction: "Direction") -> None:
        if self._container is None or self._to_container is None or self._to_client is None:
            return
        if direction.pump() and not direction.is_queued:
            direction.is_queued = True
            self._listener.forwarder.again(partial(self._go_on, direction))
        other = self._to_client if direction is self._to_container else self._to_container
        if direction.is_broken or (direction.is_done and other.is_done):
            self._is_reset = direction.is_reset or other.is_reset
            self._close()
        elif direction.is_reset:
            # Its sink is no more, but for what that has said before.
            self._pump(other)

    def _go_on(self, direction: "Direction") -> None:
        direction.is_queued = False
        self._pump(direction)

    def _note_connected(self, container: socket.socket) -> bool:
        number = container.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self.abort()
            return False
        try:
            container.getpeername()
        except OSError:
            return False
        self._is_connected = True
        pipes = self._listener.pipes
        self._to_container = Direction(pipes, self._client, container)
        self._to_client = Direction(pipes, container, self._client)
        self._listener.forwarder.watch(self._client.fileno(), self._react_to_client)
        return True

    def _close(self) -> None:
        for direction in (self._to_container, self._to_client):
            if direction is not None:
                direction.close()
        for sock in (self._client, self._container):
            if sock is not None:
                if self._is_reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._listener.forwarder.forget(sock.fileno())
                sock.close()
        self._container = None
        self._listener.ended(self)


class Direction:
    """Bytes from one socket to another. A pipe is held only while the other does not take what is in it."""

    def __init__(self, pipes: Pipes, source: socket.socket, sink: socket.socket) -> None:
        self._pipes = pipes
        self._source = source.fileno()
        self._sink = sink.fileno()
        self._sink_socket = sink
        self._pipe: Pipe | None = None
        self._waiting = 0
        self.is_done = False
        self.is_reset = False
        self.is_broken = False
        self.is_queued = False

    @property
    def is_blocked(self) -> bool:
        """Whether bytes are waiting for the sink to take them."""
        return self._waiting > 0

    def pump(self) -> bool:
        """Move what can be moved; whether there may be more, but others should have their turn.

        `is_done` then says that there will be no more, `is_reset` that a side has reset its connection: the sink, whose
        own last bytes may still be there to be read, or the source, after which nothing can follow (`is_broken`).
        """
        if self.is_done:
            return False
        moved = 0
        try:
            pipe = self._pipe = self._pipe or self._pipes.take()
            while moved < _TURN_BYTES:
                if not self._waiting and not self._fill(pipe):
                    return False
                while self._waiting:
                    count = os.splice(pipe.reader, self._sink, self._waiting, flags=os.SPLICE_F_NONBLOCK)
                    self._waiting -= count
                    moved += count
            return True
        except BlockingIOError:
            return False
        except OSError as error:
            self.is_done = self.is_reset = True
            if error.errno in (errno.EMFILE, errno.ENFILE):
                _LOG.warning("a connection of a published port is given up: %s", error)
                self.is_broken = True
            return False
        finally:
            if not self._waiting or self.is_done:
                self.close()

    def _fill(self, pipe: Pipe) -> bool:
        try:
            self._waiting = os.splice(self._source, pipe.writer, PIPE_BYTES, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError:
            self.is_done = self.is_reset = self.is_broken = True
            return False
        if self._waiting:
            return True
        self.is_done = True
        # A sink that is no longer connected says so when it is read.
        with suppress(OSError):
            self._sink_socket.shutdown(socket.SHUT_WR)
        return False

    def close(self) -> None:
        """Give the pipe back."""
        if self._pipe is not None:
            self._pipes.give_back(self._pipe, empty=not self._waiting)
            self._pipe = None
