"""A squashfs 4.0 image written in one pass: file data as it comes, tables and superblock at the end.

Nothing is compressed and nothing packed into fragments, so a file's data stands in the image as one run of bytes and
metadata blocks are of constant length: every position follows by arithmetic. Why we write it ourselves and do not ask
`sqfstar`: docs/adr/0002-own-squashfs-writer.md. The format: https://dr-emann.github.io/squashfs/squashfs.html and the
kernel's fs/squashfs/squashfs_fs.h.
"""

import io
import stat
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct, pack

from atoll.errors import Unsupported
from atoll.image.durable import write_fully
from atoll.image.tree import Content, Node, Xattrs

BLOCK_BYTES = 128 << 10
"""Size of a data block, squashfs's usual one: what the guest reads at least when it reads a file."""

_MAGIC = 0x73717368
_METADATA_BYTES = 8192
_UNCOMPRESSED_METADATA = 0x8000
_UNCOMPRESSED_DATA = 1 << 24
_NONE = 0xFFFF_FFFF
_NO_TABLE = 0xFFFF_FFFF_FFFF_FFFF
_ZLIB = 1  # used for nothing; the one compressor that no kernel leaves out
# Inodes, data, fragments, xattrs and ids as they are; no fragments; exportable (overlayfs needs file handles to keep
# inode numbers across a copy-up).
_FLAGS = 0x0001 | 0x0002 | 0x0008 | 0x0010 | 0x0080 | 0x0100 | 0x0800

_SUPERBLOCK = Struct("<IIIIIHHHHHHQQQQQQQQ")
_COMMON = Struct("<HHHHII")
_DIRECTORY = Struct("<IIHHI")
_LONG_DIRECTORY = Struct("<IIIIHHI")
_INDEX = Struct("<III")
_FILE = Struct("<IIII")
_LONG_FILE = Struct("<QQQIIII")
_LISTING_HEADER = Struct("<III")
_LISTING_ENTRY = Struct("<HhHH")

_BASIC_TYPE = {
    stat.S_IFDIR: 1,
    stat.S_IFREG: 2,
    stat.S_IFLNK: 3,
    stat.S_IFBLK: 4,
    stat.S_IFCHR: 5,
    stat.S_IFIFO: 6,
}
_XATTR_PREFIXES = ((b"user.", 0), (b"trusted.", 1), (b"security.", 2))
_BUFFER_BYTES = 1 << 20
_UNBUFFERED_BYTES = 256 << 10
"""Data that is written as it comes: to copy it costs more than another write."""
_ZEROS = bytes(BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class _Listing:
    """A directory's names in the table of listings, and the index into them, if they are many."""

    start: int
    size_bytes: int
    index: bytes
    indexed: int


class SquashfsWriter:
    """Writes to `file`, which is empty, seekable and unbuffered; first the data of files, then `finish`."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file
        self._buffer = bytearray(_SUPERBLOCK.size)
        self._position = _SUPERBLOCK.size
        self._inodes = bytearray()
        self._listings = bytearray()
        self._numbered = 0
        self._listed: dict[int, _Listing] = {}
        """By a directory's inode number, from its listing until its inode is written."""
        self._export: array[int] = array("Q")
        self._owners: dict[int, int] = {}
        self._xattr_sets: dict[Xattrs, int] = {}

    def add_file(self, size_bytes: int, read: Callable[[int], bytes]) -> Content:
        """Store a file's data: `read(n)` returns exactly its next n bytes. Blocks of zeros become holes."""
        start = self._position
        hole_bytes = 0
        blocks = array("I")
        left = size_bytes
        while left >= BLOCK_BYTES:
            data = read(min(left // BLOCK_BYTES * BLOCK_BYTES, _BUFFER_BYTES))
            left -= len(data)
            stored = 0
            for at in range(0, len(data), BLOCK_BYTES):
                if data.startswith(_ZEROS, at):
                    blocks.append(0)
                    hole_bytes += BLOCK_BYTES
                    self._write(data[stored:at])
                    stored = at + BLOCK_BYTES
                else:
                    blocks.append(BLOCK_BYTES | _UNCOMPRESSED_DATA)
            self._write(data[stored:])
        if left:
            blocks.append(left | _UNCOMPRESSED_DATA)
            self._write(read(left))
        return Content(start, size_bytes, hole_bytes, blocks)

    def add_sparse_file(self, size_bytes: int, pieces: list[tuple[int, int]], read: Callable[[int], bytes]) -> Content:
        """Store a file that has data only in `pieces`, (offset, length) in order; `read` returns that data."""
        start = self._position
        hole_bytes = 0
        blocks = array("I")
        waiting = [piece for piece in reversed(pieces) if piece[1]]
        at = 0
        while at < size_bytes:
            length = min(BLOCK_BYTES, size_bytes - at)
            first = waiting[-1][0] if waiting else size_bytes
            if first >= at + BLOCK_BYTES or first >= size_bytes:
                empty = (min(first, size_bytes) - at) // BLOCK_BYTES or 1
                blocks.extend(array("I", [0]) * empty)
                hole_bytes += min(empty * BLOCK_BYTES, size_bytes - at)
                at += empty * BLOCK_BYTES
                continue
            block = bytearray(length)
            while waiting and waiting[-1][0] < at + length:
                offset, rest = waiting.pop()
                part = min(rest, at + length - offset)
                block[offset - at : offset - at + part] = read(part)
                if part < rest:
                    waiting.append((offset + part, rest - part))
            blocks.append(length | _UNCOMPRESSED_DATA)
            self._write(block)
            at += length
        return Content(start, size_bytes, hole_bytes, blocks)

    def finish(self, root: Node) -> int:
        """Write the tables for the tree under `root`, then the superblock; returns the image's length in bytes."""
        directories = self._number(root)
        for directory in reversed(directories):
            self._write_children(directory)
            self._write_listing(directory)
        self._write_inode(root, self._numbered + 1)

        inode_table = self._position
        self._write_metadata(self._inodes)
        directory_table = self._position
        self._write_metadata(self._listings)
        fragment_table = self._position
        # The kernel checks that each of these ends exactly where the next one begins: this order, no gaps.
        export_table = self._write_table(self._export.tobytes())
        id_table = self._write_table(array("I", self._owners).tobytes())
        xattr_table = self._write_xattrs() if self._xattr_sets else _NO_TABLE
        end = self._position
        self._flush()
        superblock = _SUPERBLOCK.pack(
            _MAGIC,
            self._numbered,
            0,
            BLOCK_BYTES,
            0,
            _ZLIB,
            BLOCK_BYTES.bit_length() - 1,
            _FLAGS,
            len(self._owners),
            4,
            0,
            _reference(root.position),
            end,
            id_table,
            xattr_table,
            inode_table,
            directory_table,
            fragment_table,
            export_table,
        )
        self._file.seek(0)
        write_fully(self._file, superblock)
        return end

    def _number(self, root: Node) -> list[Node]:
        """Sort and number all nodes, children of one directory in a row; returns directories, parents first."""
        self._add_number(root)
        directories = [root]
        for directory in directories:
            assert directory.children is not None
            directory.children = dict(sorted(directory.children.items()))
            for child in directory.children.values():
                if not child.number:
                    self._add_number(child)
                if child.children is not None:
                    directories.append(child)
        self._export = array("Q", bytes(8 * self._numbered))
        return directories

    def _add_number(self, node: Node) -> None:
        self._numbered += 1
        node.number = self._numbered
        node.position = -1

    def _write_children(self, directory: Node) -> None:
        assert directory.children is not None
        for child in directory.children.values():
            if child.position < 0:  # a hard link may have been written before
                self._write_inode(child, directory.number)

    def _write_listing(self, directory: Node) -> None:
        """Write the names in a directory, in runs of entries whose inodes share a metadata block."""
        assert directory.children is not None
        listings = self._listings
        start = len(listings)
        index = bytearray()
        indexed = count = run_at = run_block = run_number = 0
        for name, child in directory.children.items():
            block = _block_start(child.position)
            delta = child.number - run_number
            here = len(listings)
            crossed = count > 0 and here // _METADATA_BYTES != run_at // _METADATA_BYTES
            if count in (0, 256) or block != run_block or not -32768 <= delta <= 32767 or crossed:
                if crossed:
                    # A name is found through the index, which leads to a run in the right metadata block.
                    index += _INDEX.pack(here - start, _block_start(here), len(name) - 1) + name
                    indexed += 1
                count, run_at, run_block, run_number, delta = 0, here, block, child.number, 0
                listings += bytes(_LISTING_HEADER.size)
            kind = _BASIC_TYPE[stat.S_IFMT(child.mode)]
            listings += _LISTING_ENTRY.pack(child.position % _METADATA_BYTES, delta, kind, len(name) - 1)
            listings += name
            count += 1
            _LISTING_HEADER.pack_into(listings, run_at, count - 1, run_block, run_number)
        self._listed[directory.number] = _Listing(start, len(listings) - start, bytes(index), indexed)

    def _write_inode(self, node: Node, parent_number: int) -> None:
        node.position = len(self._inodes)
        self._export[node.number - 1] = _reference(node.position)
        xattr = self._xattr_sets.setdefault(node.xattrs, len(self._xattr_sets)) if node.xattrs else _NONE
        kind = stat.S_IFMT(node.mode)
        content = node.content
        if kind == stat.S_IFDIR:
            listing = self._listed.pop(node.number)
            is_long = bool(node.xattrs) or listing.indexed > 0 or listing.size_bytes + 3 > 0xFFFF
        elif kind == stat.S_IFREG:
            assert content is not None
            is_long = bool(node.xattrs) or node.links > 1 or content.hole_bytes > 0
            is_long = is_long or content.start > _NONE or content.size_bytes > _NONE
        else:
            is_long = bool(node.xattrs)
        self._inodes += _COMMON.pack(
            _BASIC_TYPE[kind] + (7 if is_long else 0),
            stat.S_IMODE(node.mode),
            self._owner(node.uid),
            self._owner(node.gid),
            min(max(node.mtime_s, 0), _NONE),  # unsigned 32 bits: nothing before 1970
            node.number,
        )
        if kind == stat.S_IFDIR:
            self._inodes += _directory_inode(node, listing, parent_number, xattr, is_long)
        elif content is not None:
            self._inodes += _file_inode(node, content, xattr, is_long)
        else:
            self._inodes += pack("<I", node.links)
            if kind == stat.S_IFLNK:
                self._inodes += pack("<I", len(node.target)) + node.target
            elif kind != stat.S_IFIFO:
                self._inodes += pack("<I", node.rdev)
            if is_long:
                self._inodes += pack("<I", xattr)

    def _owner(self, owner: int) -> int:
        index = self._owners.setdefault(owner, len(self._owners))
        if index > 0xFFFF:
            raise Unsupported("the layer has files of more than 65536 users and groups, more than squashfs can hold")
        return index

    def _write_xattrs(self) -> int:
        """Write the sets of xattrs and the table of them; returns where that table begins."""
        pairs = bytearray()
        table = bytearray()
        for xattrs in self._xattr_sets:
            start = len(pairs)
            for name, value in xattrs:
                prefix, kind = next(known for known in _XATTR_PREFIXES if name.startswith(known[0]))
                key = name.removeprefix(prefix)
                pairs += pack("<HH", kind, len(key)) + key + pack("<I", len(value)) + value
            table += pack("<QII", _reference(start), len(xattrs), len(pairs) - start)
        pairs_at = self._position
        self._write_metadata(pairs)
        blocks = self._write_blocks(table)
        table_at = self._position
        self._write(pack("<QII", pairs_at, len(self._xattr_sets), 0) + blocks)
        return table_at

    def _write_table(self, data: bytes) -> int:
        """Write `data` as metadata and the list of its blocks behind it; returns where that list begins."""
        blocks = self._write_blocks(data)
        table_at = self._position
        self._write(blocks)
        return table_at

    def _write_blocks(self, data: bytes | bytearray) -> bytes:
        """Write `data` as metadata; returns the positions of its blocks."""
        first = self._position
        self._write_metadata(data)
        return array("Q", range(first, self._position, _METADATA_BYTES + 2)).tobytes()

    def _write_metadata(self, data: bytes | bytearray) -> None:
        for at in range(0, len(data), _METADATA_BYTES):
            block = data[at : at + _METADATA_BYTES]
            self._write(pack("<H", len(block) | _UNCOMPRESSED_METADATA) + block)

    def _write(self, data: bytes | bytearray) -> None:
        self._position += len(data)
        if len(data) >= _UNBUFFERED_BYTES:
            self._flush()
            write_fully(self._file, data)
            return
        self._buffer += data
        if len(self._buffer) >= _BUFFER_BYTES:
            self._flush()

    def _flush(self) -> None:
        write_fully(self._file, self._buffer)
        self._buffer = bytearray()


def _directory_inode(node: Node, listing: "_Listing", parent_number: int, xattr: int, is_long: bool) -> bytes:
    assert node.children is not None
    links = 2 + sum(child.children is not None for child in node.children.values())
    block, offset = _block_start(listing.start), listing.start % _METADATA_BYTES
    size = listing.size_bytes + 3  # `.` and `..`, which are not stored, count as three bytes
    if not is_long:
        return _DIRECTORY.pack(block, links, size, offset, parent_number)
    fixed = _LONG_DIRECTORY.pack(links, size, block, parent_number, listing.indexed, offset, xattr)
    return fixed + listing.index


def _file_inode(node: Node, content: Content, xattr: int, is_long: bool) -> bytes:
    if is_long:
        sizes = (content.start, content.size_bytes, content.hole_bytes)
        fixed = _LONG_FILE.pack(*sizes, node.links, _NONE, 0, xattr)
    else:
        fixed = _FILE.pack(content.start, _NONE, 0, content.size_bytes)
    return fixed + content.blocks.tobytes()


def _block_start(position: int) -> int:
    """Where the metadata block begins, from the start of its table, that holds byte `position` of the table's data."""
    return position // _METADATA_BYTES * (_METADATA_BYTES + 2)


def _reference(position: int) -> int:
    return _block_start(position) << 16 | position % _METADATA_BYTES
