"""What goes over a network's bridge, as a pcap file: frames that the filter has let through, and the gateway's own.

The format is that of libpcap with nanoseconds: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html
"""

import socket
import struct
import time
from collections.abc import AsyncGenerator

from atoll.channel import readable
from atoll.network.segment.bridge import BRIDGE

_HEADER = struct.Struct("=IHHiIII")
_RECORD = struct.Struct("=IIII")
_NANOSECONDS = 0xA1B23C4D
_ETHERNET = 1
# A frame that a VM leaves to others to cut into segments is far longer than the MTU.
_MOST_BYTES = 262_144
_PIECE_BYTES = 65_536

_ETH_P_ALL = 0x0003
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1
_MEMBERSHIP = struct.Struct("=iHH8x")
_BUFFER_BYTES = 8 << 20


def header() -> bytes:
    """The beginning of a pcap file."""
    return _HEADER.pack(_NANOSECONDS, 2, 4, 0, 0, _MOST_BYTES, _ETHERNET)


def record(frame: bytes, time_ns: int) -> bytes:
    """One frame in a pcap file."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return _RECORD.pack(seconds, nanoseconds, len(frame), len(frame)) + frame


async def trace() -> AsyncGenerator[bytes]:
    """A pcap file that ends when nobody reads it any more, in pieces; raises `OSError`."""
    with _listen() as sock:
        yield header()
        while True:
            await readable(sock)
            pieces, size = [], 0
            while size < _PIECE_BYTES:
                try:
                    frame = sock.recv(_MOST_BYTES)
                except BlockingIOError:
                    break
                pieces.append(record(frame, time.time_ns()))
                size += len(pieces[-1])
            yield b"".join(pieces)


def _listen() -> socket.socket:
    """A socket that gets every frame on the bridge, also those from one tap to another."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        sock.bind((BRIDGE, _ETH_P_ALL))
        membership = _MEMBERSHIP.pack(socket.if_nametoindex(BRIDGE), _PROMISCUOUS, 0)
        sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
    except BaseException:
        sock.close()
        raise
    return sock
