"""The log's format: what a container printed, when and where, byte for byte.

A log is a directory of segments, files numbered upwards. A segment is a sequence of records:

    time         u64  nanoseconds since the epoch
    number       u64  1, 2, 3, ... over all segments of the log
    length       u32  bytes of data, 1 to 65,536
    stream       u8   1 stdout, 2 stderr
    (reserved)   u8
    mark         u16  0xA70C
    data
    length       u32  again, so that a log can be read backwards

all little endian. Records are only ever appended. What follows the last whole record of a segment (a
write that was torn by a crash or a full disk) is not there for a reader, and cut off by the next writer.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

STDOUT, STDERR = 1, 2
MAX_RECORD_BYTES = 65_536

_HEADER = struct.Struct("<QQIBBH")
_TRAILER = struct.Struct("<I")
_MARK = 0xA70C
OVERHEAD_BYTES = _HEADER.size + _TRAILER.size
_BLOCK_BYTES = 262_144
_SUFFIX = ".records"


class Record(NamedTuple):
    """One piece of output; `end` is the offset in the segment at which the next record begins."""

    time_ns: int
    number: int
    stream: int
    data: bytes
    end: int

    @property
    def start(self) -> int:
        """The record's own offset in its segment."""
        return self.end - len(self.data) - OVERHEAD_BYTES


def segment_path(directory: Path, segment: int) -> Path:
    """The file of a segment."""
    return directory / f"{segment:010d}{_SUFFIX}"


def segments(directory: Path) -> list[int]:
    """The numbers of the segments that are there, oldest first; none when the directory is not there."""
    try:
        names = os.listdir(directory)  # noqa: PTH208 - a follower asks often, and needs no Path of each name
    except FileNotFoundError:
        return []
    stems = (name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))
    return sorted(int(stem) for stem in stems if stem.isascii() and stem.isdigit())


@contextmanager
def opened(directory: Path, segment: int) -> Iterator[int | None]:
    """A segment's descriptor for reading; None when it is not there (any more)."""
    try:
        fd = os.open(segment_path(directory, segment), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def pack(time_ns: int, number: int, stream: int, data: bytes) -> tuple[bytes, bytes, bytes]:
    """The parts of a record, for one vectored write."""
    return _HEADER.pack(time_ns, number, len(data), stream, 0, _MARK), data, _TRAILER.pack(len(data))


def forwards(fd: int, offset: int) -> Iterator[Record]:
    """The whole records of a segment from `offset`, where a record begins, up to its end or the first torn one."""
    while True:
        block = os.pread(fd, _BLOCK_BYTES, offset)
        position = 0
        while record := _parse(block, position, offset):
            yield record
            position = record.end - offset
        if not position:
            return
        offset += position


def backwards(fd: int) -> Iterator[Record]:
    """The whole records of a segment, last first."""
    end = whole_bytes(fd)
    while record := _record_before(fd, end):
        yield record
        end = record.start


def whole_bytes(fd: int) -> int:
    """Where the last whole record of a segment ends."""
    size = os.fstat(fd).st_size
    if size == 0 or _record_before(fd, size):
        return size
    end = 0
    for record in forwards(fd, 0):
        end = record.end
    return end


def _record_before(fd: int, end: int) -> Record | None:
    if end < OVERHEAD_BYTES:
        return None
    (length,) = _TRAILER.unpack(os.pread(fd, _TRAILER.size, end - _TRAILER.size))
    start = end - OVERHEAD_BYTES - length
    if start < 0 or length > MAX_RECORD_BYTES:
        return None
    return _parse(os.pread(fd, end - start, start), 0, start)


def _parse(block: bytes, position: int, offset: int) -> Record | None:
    """The record at `position` of `block`, which was read at `offset`; None when it is not there as a whole."""
    data_start = position + _HEADER.size
    if data_start > len(block):
        return None
    time_ns, number, length, stream, _, mark = _HEADER.unpack_from(block, position)
    data_end = data_start + length
    if mark != _MARK or not 0 < length <= MAX_RECORD_BYTES or data_end + _TRAILER.size > len(block):
        return None
    if _TRAILER.unpack_from(block, data_end) != (length,):
        return None
    return Record(time_ns, number, stream, block[data_start:data_end], offset + data_end + _TRAILER.size)
