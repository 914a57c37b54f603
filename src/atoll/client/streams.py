"""Byte streams of containers: the hijacked connection, and Docker's multiplexed stdout and stderr.

Without a terminal the engine sends frames: one byte that names the stream (1 stdout, 2 stderr), three of
zero, the length as u32 big endian, then that many bytes. Everything is passed on as `memoryview`s of the
receive buffer, valid until the next one is asked for: 2 GB go through without a copy of ours.
"""

import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from select import POLLOUT, poll

from atoll.errors import AtollError

STDIN, STDOUT, STDERR = 0, 1, 2
HEADER_BYTES = 8
BUFFER_BYTES = 1 << 18


class Hijacked:
    """A connection that the engine handed over; one thread may send while another receives."""

    def __init__(self, stream: socket.socket, head: bytes) -> None:
        self.socket = stream
        self._head = head

    def chunks(self) -> Iterator[memoryview]:
        """What the engine sends, until it closes; a broken connection counts as its end."""
        if self._head:
            yield memoryview(self._head)
        buffer = memoryview(bytearray(BUFFER_BYTES))
        with suppress(ConnectionError):
            while received := self.socket.recv_into(buffer):
                yield buffer[:received]

    def try_send(self, data: bytes | memoryview) -> int:
        """Send what fits now; 0 when nothing does. Raises `ConnectionError` when the engine takes no more."""
        try:
            return self.socket.send(data, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0

    def end_input(self) -> None:
        """Half-close: the process's stdin ends, its output still comes."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close, and wake a thread that still receives."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def demultiplex(chunks: Iterable[bytes | memoryview]) -> Iterator[tuple[int, memoryview]]:
    """The frames' contents with the number of their stream, in pieces as they come.

    Raises `AtollError` when what comes is not frames.
    """
    header = b""
    number = remaining = 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            if remaining:
                piece = view[:remaining]
                remaining -= len(piece)
                view = view[len(piece) :]
                yield number, piece
                continue
            missing = HEADER_BYTES - len(header)
            header += view[:missing]
            view = view[missing:]
            if len(header) == HEADER_BYTES:
                number, remaining = header[0], int.from_bytes(header[4:], "big")
                if number > STDERR or header[1:4] != b"\0\0\0":
                    raise AtollError(f"the engine's stream is not made of frames: it has a header {header.hex()}")
                header = b""


def copy_output(chunks: Iterable[bytes | memoryview], outputs: Mapping[int, int], *, multiplexed: bool) -> None:
    """Write a stream to descriptors: `outputs` maps stream number to descriptor, a missing one is dropped.

    Without frames everything is stdout. Raises `BrokenPipeError` when nobody reads the output any more.
    """
    frames = demultiplex(chunks) if multiplexed else ((STDOUT, memoryview(chunk)) for chunk in chunks)
    for number, piece in frames:
        # Docker keeps a frame that says stdin for what belongs to no process output; it goes to stdout.
        descriptor = outputs.get(number or STDOUT)
        if descriptor is not None:
            write_all(descriptor, piece)


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write it all, also to a descriptor that someone made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            room = poll()
            room.register(descriptor, POLLOUT)
            room.poll()
