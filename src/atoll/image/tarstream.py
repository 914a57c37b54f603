"""Tar archives read from a stream, once, front to back: ustar, PAX and GNU, sparse files included.

Python's tarfile forgets things that a layer needs to be exact (names that are not UTF-8, binary xattrs) and looks for
headers in the data of a damaged archive. This reader keeps names as bytes, stops at the first thing that is wrong,
and bounds what it holds. Formats: POSIX pax(1), GNU tar's manual ("Basic Tar Format", "Storing Sparse Files").
"""

import base64
import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Protocol
from urllib.parse import unquote_to_bytes

from atoll.errors import InvalidRequest

BLOCK = 512
_CHUNK = 1 << 20
_LONGEST_EXTENSION = 4 << 20
"""Bytes of one PAX header or GNU long name; xattrs have at most 64 KiB each."""
_MOST_SPARSE_PIECES = 1 << 16

_HEADER = Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12x")
_SPARSE_PIECE = Struct("12s12s")


class Source(Protocol):
    """What bytes are read from: up to `size` at once, none at the end."""

    def read(self, size: int, /) -> bytes:
        """At least one byte, or none at the end."""


class Kind(enum.Enum):
    """What an entry is."""

    FILE = "file"
    HARD_LINK = "hard link"
    SYMLINK = "symbolic link"
    CHARACTER = "character device"
    BLOCK = "block device"
    DIRECTORY = "directory"
    FIFO = "fifo"


_KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(slots=True)
class Entry:
    """One member of an archive; `path` and `link` as they stand there, unchecked.

    `size_bytes` is what the file shows; `pieces` the (offset, length) of the data that a sparse file has, else None.
    """

    kind: Kind
    path: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    mtime_s: int
    size_bytes: int
    major: int = 0
    minor: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[tuple[int, int]] | None = None


class TarReader:
    """Iterates over the entries of `source`; the data of an entry is read before the next one, or skipped.

    Every method raises `InvalidRequest` for an archive that is damaged or cut off.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._buffer = b""
        self._at = 0
        self._left = 0
        """Bytes of the present entry's data that are unread."""
        self._padding = 0
        self._has_begun = False

    def __iter__(self) -> Iterator[Entry]:
        while (entry := self._next()) is not None:
            yield entry

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes (at most 1 MiB) of the present entry's data as it is stored, fewer only at its end."""
        size = min(size, self._left)
        self._left -= size
        return self._take(size)

    def drain(self) -> None:
        """Read on to the end of the stream: what follows the archive counts for its digest."""
        self._buffer, self._at = b"", 0
        while self._source.read(_CHUNK):
            pass

    def _next(self) -> Entry | None:
        pax: dict[bytes, bytes] = {}
        long_path = long_link = None
        sparse_pax: list[tuple[int, int]] = []
        while True:
            self._skip()
            header = self._header()
            if header is None:
                if pax or long_path is not None or long_link is not None:
                    raise _damaged("an extended header has no entry")
                return None
            kind = header[156:157]
            if kind == b"x":
                pax, sparse_pax = _pax(self._extension(header))
            elif kind == b"g":
                # Docker heeds no global header; what git writes there is a comment.
                self._extension(header)
            elif kind == b"L":
                long_path = self._extension(header).rstrip(b"\0")
            elif kind == b"K":
                long_link = self._extension(header).rstrip(b"\0")
            else:
                return self._entry(header, pax, sparse_pax, long_path, long_link)

    def _entry(
        self,
        header: bytes,
        pax: dict[bytes, bytes],
        sparse_pax: list[tuple[int, int]],
        long_path: bytes | None,
        long_link: bytes | None,
    ) -> Entry:
        fields = _HEADER.unpack(header)
        name, mode, uid, gid, size, mtime, _, kind_byte, link, magic, _, _, _, major, minor, prefix = fields
        kind = _KINDS.get(kind_byte)
        if kind is None:
            raise _damaged(f"it has an entry of the unknown type {kind_byte!r}")
        path = name.partition(b"\0")[0]
        if magic == b"ustar\0" and prefix[0]:
            path = prefix.partition(b"\0")[0] + b"/" + path
        entry = Entry(
            kind,
            path if long_path is None else long_path,
            link.partition(b"\0")[0] if long_link is None else long_link,
            _number(mode) & 0o7777,
            _number(uid),
            _number(gid),
            _number(mtime),
            _number(size),
        )
        if kind is Kind.CHARACTER or kind is Kind.BLOCK:
            entry.major, entry.minor = _number(major), _number(minor)
        if pax:
            _apply_pax(entry, pax)
            if long_path is not None and b"GNU.sparse.name" not in pax:
                entry.path = long_path  # of a name told in both ways, Go's reader (hence Docker) takes this one
            if long_link is not None:
                entry.link = long_link
        if kind is Kind.FILE and entry.path.endswith(b"/"):
            entry.kind = kind = Kind.DIRECTORY  # as V7 archives have it
        # Of the others, some writers give a size and none have data (so does Go's reader, hence Docker).
        stored = entry.size_bytes if kind is Kind.FILE else 0
        if entry.size_bytes < 0 or not 0 <= entry.uid < 1 << 32 or not 0 <= entry.gid < 1 << 32:
            raise _damaged(f"{printable(entry.path)} has a size or an owner that cannot be")
        self._left, self._padding = stored, -stored % BLOCK
        if kind is Kind.FILE:
            self._sparse(entry, header, pax, sparse_pax)
        else:
            entry.size_bytes = 0
        return entry

    def _sparse(self, entry: Entry, header: bytes, pax: dict[bytes, bytes], sparse_pax: list[tuple[int, int]]) -> None:
        """Find the pieces of a sparse file in any of GNU tar's four ways to write them."""
        size = None
        if header[156:157] == b"S":
            entry.pieces = self._old_sparse_map(header)
            size = _number(header[483:495])
        elif b"GNU.sparse.major" in pax:
            if (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                raise _damaged(f"{printable(entry.path)} is sparse in an unknown format")
            entry.pieces = self._sparse_map()
            size = _decimal(pax.get(b"GNU.sparse.realsize", b""))
        elif b"GNU.sparse.map" in pax:
            numbers = [_decimal(number) for number in pax[b"GNU.sparse.map"].split(b",")]
            entry.pieces = list(zip(numbers[::2], numbers[1::2], strict=False))
            size = _decimal(pax.get(b"GNU.sparse.size", b""))
        elif sparse_pax:
            entry.pieces = sparse_pax
            size = _decimal(pax.get(b"GNU.sparse.size", b""))
        if size is None or entry.pieces is None:
            return
        entry.size_bytes = size
        end = 0
        for offset, length in entry.pieces:
            if offset < end or length < 0:
                raise _damaged(f"{printable(entry.path)} has a sparse map that overlaps")
            end = offset + length
        if end > size or sum(length for _, length in entry.pieces) != self._left:
            raise _damaged(f"{printable(entry.path)} has a sparse map that does not fit its data")

    def _old_sparse_map(self, header: bytes) -> list[tuple[int, int]]:
        raw, more = header[386:482], header[482]
        while more:
            if len(raw) > _MOST_SPARSE_PIECES * _SPARSE_PIECE.size:
                raise _damaged("a sparse file has too many pieces")
            extension = self._take(BLOCK)
            raw, more = raw + extension[:504], extension[504]
        pairs = ((_number(offset), _number(length)) for offset, length in _SPARSE_PIECE.iter_unpack(raw))
        return [(offset, length) for offset, length in pairs if length or offset]

    def _sparse_map(self) -> list[tuple[int, int]]:
        """The map of format 1.0: decimal lines in front of the data, padded to a block."""
        block = self.read(BLOCK)
        count = _decimal(block.partition(b"\n")[0])
        if count > _MOST_SPARSE_PIECES:
            raise _damaged("a sparse file has too many pieces")
        blocks, lines = [block], block.count(b"\n")
        while lines <= 2 * count:
            block = self.read(BLOCK)
            if not block:
                raise _damaged("a sparse map is cut off")
            blocks.append(block)
            lines += block.count(b"\n")
        numbers = [_decimal(line) for line in b"".join(blocks).split(b"\n")[1 : 2 * count + 1]]
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    def _header(self) -> bytes | None:
        """The next header; None at the end of the archive."""
        header = self._take(BLOCK, at_end=b"")
        if not header or (not header[0] and not header.strip(b"\0")):
            return None
        if not _checksum_fits(header):
            raise InvalidRequest("the file is no tar archive, or a damaged one: a header's checksum is wrong")
        self._has_begun = True
        return header

    def _extension(self, header: bytes) -> bytes:
        size = _number(header[124:136])
        if not 0 <= size <= _LONGEST_EXTENSION:
            raise _damaged(f"it has an extended header of {size} bytes")
        self._left, self._padding = size, -size % BLOCK
        return b"".join(iter(lambda: self.read(_CHUNK), b""))

    def _skip(self) -> None:
        while self._left:
            self.read(_CHUNK)
        if self._padding:
            self._take(self._padding)
            self._padding = 0

    def _take(self, size: int, at_end: bytes | None = None) -> bytes:
        """Exactly `size` bytes of the stream; at its very end `at_end`, if that is given."""
        start = self._at
        end = start + size
        if end <= len(self._buffer):
            self._at = end
            return self._buffer[start:end]
        parts = [self._buffer[start:]]
        missing = end - len(self._buffer)
        while missing > 0:
            chunk = self._source.read(_CHUNK)
            if not chunk:
                if at_end is not None and not any(parts):
                    return at_end
                if not self._has_begun:
                    raise InvalidRequest("the file is no tar archive: it is shorter than the header of one")
                raise InvalidRequest("the archive is cut off: its stream ended in the middle of an entry")
            parts.append(chunk)
            missing -= len(chunk)
        self._buffer = b"".join(parts)
        self._at = size
        return self._buffer[:size]


def printable(path: bytes) -> str:
    """`path` for a message."""
    return path[:200].decode("utf-8", "backslashreplace")


def _apply_pax(entry: Entry, pax: dict[bytes, bytes]) -> None:
    for key, value in pax.items():
        if key == b"path" or key == b"GNU.sparse.name":
            # The true name of a sparse file wins over the one for readers that do not know about them.
            if key == b"GNU.sparse.name" or b"GNU.sparse.name" not in pax:
                entry.path = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            entry.size_bytes = _decimal(value)
        elif key == b"uid":
            entry.uid = _decimal(value)
        elif key == b"gid":
            entry.gid = _decimal(value)
        elif key == b"mtime":
            entry.mtime_s = _seconds(value)
        elif key.startswith(b"SCHILY.xattr."):
            entry.xattrs[key[13:]] = value
        elif key.startswith(b"LIBARCHIVE.xattr."):
            # What bsdtar writes, most often beside the other: the name as in an address, the value in base 64.
            entry.xattrs.setdefault(unquote_to_bytes(key[17:]), _base64(value))


def _pax(data: bytes) -> tuple[dict[bytes, bytes], list[tuple[int, int]]]:
    """The records of a PAX header, and the pieces of a sparse file in format 0.0, whose keys repeat."""
    records: dict[bytes, bytes] = {}
    pieces: list[tuple[int, int]] = []
    offset = None
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 12)
        length = _decimal(data[at:space]) if space > at else 0
        record = data[at : at + length]
        key, equals, value = record[space - at + 1 : -1].partition(b"=")
        if len(record) != length or not record.endswith(b"\n") or not equals or not key:
            raise _damaged("a PAX header is malformed")
        if key == b"GNU.sparse.offset":
            offset = _decimal(value)
        elif key == b"GNU.sparse.numbytes" and offset is not None:
            pieces.append((offset, _decimal(value)))
            if len(pieces) > _MOST_SPARSE_PIECES:
                raise _damaged("a sparse file has too many pieces")
        elif not value and not key.startswith((b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")):
            records.pop(key, None)  # an empty value takes the record back
        else:
            records[key] = value
        at += length
    return records, pieces


def _checksum_fits(header: bytes) -> bool:
    digits = header[148:156].partition(b"\0")[0].strip()
    if not digits or digits.strip(b"01234567"):
        return False
    unsigned = sum(header) - sum(header[148:156]) + 8 * 0x20
    if int(digits, 8) == unsigned:
        return True
    # Some old writers summed signed bytes.
    return int(digits, 8) == unsigned - 256 * sum(byte > 127 for byte in header[:148] + header[156:])


def _number(raw: bytes) -> int:
    """A header's number: octal digits, or base 256 when its first bit is set."""
    if raw[0] & 0x80:
        if raw[0] not in (0x80, 0xFF):
            raise _damaged("a number in a header is malformed")
        value = int.from_bytes(raw[1:], "big")
        return value - (1 << (8 * (len(raw) - 1))) if raw[0] == 0xFF else value
    digits = raw.partition(b"\0")[0].strip()
    if digits.isdigit():
        try:
            return int(digits, 8)
        except ValueError as error:
            raise _damaged("a number in a header is malformed") from error
    if digits:
        raise _damaged("a number in a header is malformed")
    return 0


def _decimal(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 20:
        raise _damaged("a number in a PAX header is malformed")
    return int(raw)


def _base64(raw: bytes) -> bytes:
    """What `raw` stands for; bsdtar leaves the padding out."""
    try:
        return base64.b64decode(raw + b"=" * (-len(raw) % 4), validate=True)
    except ValueError as error:
        raise _damaged("an xattr in a PAX header is malformed") from error


def _seconds(raw: bytes) -> int:
    """Whole seconds of a PAX time, rounded down as stat(2) has them."""
    whole, _, fraction = raw.partition(b".")
    negative = whole.startswith(b"-")
    if fraction and not fraction.isdigit():
        raise _damaged("a time in a PAX header is malformed")
    seconds = _decimal(whole.removeprefix(b"-"))
    return -seconds - bool(fraction.strip(b"0")) if negative else seconds


def _damaged(why: str) -> InvalidRequest:
    return InvalidRequest(f"the archive is malformed: {why}")
