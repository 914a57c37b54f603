"""Streams of a channel and their credit: how a slow reader stops a writer (`docs/protocol.md`).

A `StreamWriter` spends credit with every byte and waits when none is left. A `StreamsReader` takes one
or more streams in the order in which their bytes arrived (a terminal user cares whether an error
message came before or after a line of output) and gives credit back as its owner reads. What a reader
holds is bounded by the windows of its streams, whatever the peer does.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from atoll.channel.frames import (
    CREDIT_STEP_BYTES,
    MAX_DATA_BYTES,
    WINDOW_BYTES,
    Kind,
    ProtocolViolation,
    encode,
    encode_credit,
)
from atoll.errors import AtollError

_MANY_PIECES = 4096


class StreamStopped(Exception):
    """The receiver of a stream takes no more."""


class Piece(NamedTuple):
    """Bytes of one stream; no bytes: the stream has ended."""

    stream: int
    data: bytes


class Outlet(Protocol):
    """What a stream needs of its connection."""

    def send(self, *parts: bytes | memoryview) -> None:
        """Queue the bytes of a frame; never waits, never fails."""

    async def room(self) -> None:
        """Wait until the queue is short enough for more bulk data."""

    def forget(self, stream: int) -> None:
        """Ignore what still comes for a stream."""


class StreamsReader:
    """The receiving side of some streams; read by one task at a time."""

    def __init__(self, outlet: Outlet, streams: tuple[int, ...]) -> None:
        self.streams = streams
        self._outlet = outlet
        self._allowance = dict.fromkeys(streams, WINDOW_BYTES)
        self._owed = dict.fromkeys(streams, 0)
        self._unread: deque[tuple[int, bytes | bytearray]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._failure: AtollError | None = None

    async def read(self) -> Piece | None:
        """The next piece of at least one byte, or the end of one stream; None after all of them have ended.

        Raises the connection's error when it broke before the end; what had arrived is read first.
        """
        while not self._unread:
            if self._failure is not None:
                raise self._failure
            if not self._allowance:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        stream, data = self._unread.popleft()
        self._give_back(stream, len(data))
        return Piece(stream, bytes(data))

    def stop(self) -> None:
        """Take no more of any of the streams; what was not read is dropped."""
        for stream in self._allowance:
            self._outlet.forget(stream)
            self._outlet.send(*encode(Kind.STOP, stream))
        self._allowance.clear()
        self._unread.clear()
        self._wake()

    def receive(self, stream: int, payload: memoryview) -> None:
        """Take a DATA frame from the connection; raises `ProtocolViolation` when it exceeds the credit."""
        left = self._allowance[stream] - len(payload)
        if left < 0:
            raise ProtocolViolation(f"sent {-left} bytes more on stream {stream} than its credit allows")
        self._allowance[stream] = left
        if not self._join(stream, payload):
            self._unread.append((stream, bytes(payload)))
            self._wake()

    def _join(self, stream: int, payload: memoryview) -> bool:
        """Append to a small last piece, so that a peer that sends single bytes cannot make us hold an object for each.

        The order between streams is kept, unless a peer alternates between two so often that memory matters more.
        """
        for index in (-1, -2) if len(self._unread) > _MANY_PIECES else (-1,):
            last_stream, last = self._unread[index] if self._unread else (0, b"")
            if last_stream == stream and len(last) + len(payload) <= MAX_DATA_BYTES:
                if not isinstance(last, bytearray):
                    last = bytearray(last)
                    self._unread[index] = (stream, last)
                last += payload
                return True
        return False

    def finish(self, stream: int) -> None:
        """Take an EOF frame from the connection."""
        self._outlet.forget(stream)
        del self._allowance[stream]
        self._unread.append((stream, b""))
        self._wake()

    def fail(self, error: AtollError) -> None:
        """Take the news that the connection is gone."""
        self._failure = error
        self._wake()

    def _give_back(self, stream: int, count: int) -> None:
        if stream not in self._allowance or self._failure is not None:
            return
        owed = self._owed[stream] + count
        if owed >= CREDIT_STEP_BYTES:
            self._allowance[stream] += owed
            self._outlet.send(encode_credit(stream, owed))
            owed = 0
        self._owed[stream] = owed

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class StreamReader:
    """The receiving side of one stream."""

    def __init__(self, streams: StreamsReader) -> None:
        (self.stream,) = streams.streams
        self._streams = streams

    async def read(self) -> bytes:
        """The next bytes, at most 64 KiB; none at the end. Raises the connection's error when it broke before."""
        piece = await self._streams.read()
        return piece.data if piece is not None else b""

    def stop(self) -> None:
        """Take no more; what was not read is dropped."""
        self._streams.stop()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data


class StreamWriter:
    """The sending side of one stream; written by one task at a time."""

    def __init__(self, outlet: Outlet, stream: int) -> None:
        self.stream = stream
        self._outlet = outlet
        self._credit = WINDOW_BYTES
        self._is_open = True
        self._stopped = False
        self._waiter: asyncio.Future[None] | None = None
        self._failure: AtollError | None = None

    @property
    def is_open(self) -> bool:
        """Whether anybody would receive what is written."""
        return self._is_open

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting for credit.

        Raises `StreamStopped` when the receiver takes no more, the connection's error when it is gone.
        """
        rest = memoryview(data)
        while rest:
            await self._outlet.room()
            self._check()
            while not self._credit:
                self._waiter = asyncio.get_running_loop().create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
                self._check()
            count = min(len(rest), self._credit, MAX_DATA_BYTES)
            self._credit -= count
            self._outlet.send(*encode(Kind.DATA, self.stream, rest[:count]))
            rest = rest[count:]

    def end(self) -> None:
        """Send the end of the stream; does nothing when it has ended already."""
        if self._is_open:
            self._is_open = False
            self._outlet.forget(self.stream)
            self._outlet.send(*encode(Kind.EOF, self.stream))

    def credit(self, count: int) -> None:
        """Take a CREDIT frame from the connection; raises `ProtocolViolation` when it exceeds the window."""
        self._credit += count
        if self._credit > WINDOW_BYTES:
            raise ProtocolViolation(f"gave more credit on stream {self.stream} than its window has")
        self._wake()

    def stopped(self) -> None:
        """Take a STOP frame from the connection."""
        self._stopped = True
        self.end()
        self._wake()

    def fail(self, error: AtollError) -> None:
        """Take the news that the connection is gone."""
        self._failure = error
        self._is_open = False
        self._wake()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._stopped or not self._is_open:
            raise StreamStopped

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
