"""Frames of the channel, as bytes: the codec that knows no socket (`docs/protocol.md`).

A `Decoder` owns the buffer that a socket reads into, cuts frames out of it and refuses what the
protocol refuses. Its memory is bounded whatever arrives: one buffer, grown to the largest message at
most and given back afterwards. `encode` makes the two parts of a frame without copying its payload.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

PROTOCOL = 1
MAX_MESSAGE_BYTES = 1 << 20
MAX_DATA_BYTES = 65_536
WINDOW_BYTES = 262_144
CREDIT_STEP_BYTES = WINDOW_BYTES // 4

_HEADER = struct.Struct("<IIB")
_CREDIT = struct.Struct("<I")
# Measured on unix sockets: reads of 256 KiB carry a third more than reads of 64 KiB, larger ones no more.
_BUFFER_BYTES = 262_144


class Kind(IntEnum):
    """What a frame is."""

    HELLO = 0
    REQUEST = 1
    RESPONSE = 2
    ERROR = 3
    EVENT = 4
    DATA = 5
    CREDIT = 6
    EOF = 7
    STOP = 8


_LIMITS = {
    Kind.HELLO: (1, MAX_MESSAGE_BYTES),
    Kind.REQUEST: (1, MAX_MESSAGE_BYTES),
    Kind.RESPONSE: (1, MAX_MESSAGE_BYTES),
    Kind.ERROR: (1, MAX_MESSAGE_BYTES),
    Kind.EVENT: (1, MAX_MESSAGE_BYTES),
    Kind.DATA: (1, MAX_DATA_BYTES),
    Kind.CREDIT: (_CREDIT.size, _CREDIT.size),
    Kind.EOF: (0, 0),
    Kind.STOP: (0, 0),
}
_RULES = tuple((kind, *_LIMITS[kind]) for kind in Kind)


class ProtocolViolation(Exception):
    """The peer sent what the protocol forbids; the channel cannot be used any more."""


class Frame(NamedTuple):
    """One frame; `payload` is a view that is valid until the decoder receives again."""

    kind: Kind
    id: int
    payload: memoryview


def encode(kind: Kind, number: int, payload: bytes | memoryview = b"") -> tuple[bytes, bytes | memoryview]:
    """Header and payload of a frame; the caller keeps the limits of its kind."""
    return _HEADER.pack(len(payload), number, kind), payload


def encode_credit(stream: int, credit_bytes: int) -> bytes:
    """A whole CREDIT frame."""
    return _HEADER.pack(_CREDIT.size, stream, Kind.CREDIT) + _CREDIT.pack(credit_bytes)


def decode_credit(payload: memoryview) -> int:
    """The bytes that a CREDIT frame gives back."""
    (credit_bytes,) = _CREDIT.unpack(payload)
    return int(credit_bytes)


class Decoder:
    """Cuts frames out of what a socket delivers, in pieces of any size.

    Read into `space()`, then iterate over `received(count)` to its end. A wrong header raises
    `ProtocolViolation` before its payload is waited for; the decoder is of no use after that.
    """

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))
        self._filled = 0

    def space(self) -> memoryview:
        """Where the next bytes go; never empty between two calls of `received`."""
        return self._buffer[self._filled :]

    def received(self, count: int) -> Iterator[Frame]:
        """The frames that are complete once `count` more bytes stand in the space."""
        view, position, end = self._buffer, 0, self._filled + count
        wanted = 0
        while end - position >= _HEADER.size:
            length, number, code = _HEADER.unpack_from(view, position)
            kind = _checked(code, length)
            wanted = _HEADER.size + length
            if end - position < wanted:
                break
            yield Frame(kind, number, view[position + _HEADER.size : position + wanted])
            position += wanted
            wanted = 0
        self._keep(position, end, wanted)

    def _keep(self, position: int, end: int, wanted: int) -> None:
        """Move the unfinished rest to the front of a buffer that can hold the whole frame."""
        rest, old = end - position, self._buffer
        size = max(_BUFFER_BYTES, wanted)
        if size != len(old):
            self._buffer = memoryview(bytearray(size))
        if rest and (position or self._buffer is not old):
            self._buffer[:rest] = old[position:end]
        self._filled = rest


def _checked(code: int, length: int) -> Kind:
    if code >= len(_RULES):
        raise ProtocolViolation(f"sent a frame of the unknown kind {code}")
    kind, least, most = _RULES[code]
    if not least <= length <= most:
        raise ProtocolViolation(f"sent a {kind.name} frame of {length} bytes, where {least} to {most} are allowed")
    return kind
