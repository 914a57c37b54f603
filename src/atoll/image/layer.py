"""A layer's tar stream becomes a squashfs: unpacked nowhere, in one pass, by an unprivileged process.

The diff ID (the digest of the uncompressed tar) is computed on the way; what it should be, the caller knows.
"""

import hashlib
from dataclasses import dataclass
from io import FileIO

from atoll.errors import InvalidRequest
from atoll.image.compression import decompressed
from atoll.image.limits import DEFAULT_LIMITS, Limits
from atoll.image.squashfs import SquashfsWriter
from atoll.image.tarstream import Kind, Source, TarReader
from atoll.image.tree import Tree

ALIGNMENT_BYTES = 1 << 20
"""Layers are whole MiBs long, the rest a hole, so that they make a disk without anything between them."""


@dataclass(frozen=True)
class WrittenLayer:
    """What a tar stream turned out to be; sizes of the tar and of the squashfs."""

    diff_id: str
    tar_bytes: int
    squashfs_bytes: int
    entries: int


def write_layer(source: Source, file: FileIO, limits: Limits = DEFAULT_LIMITS) -> WrittenLayer:
    """Write the tar in `source`, compressed or not, as a squashfs into the empty `file`. Blocks: call it in a thread.

    Raises `InvalidRequest` for a tar that is damaged, hostile or larger than `limits`.
    """
    tar = _Metered(decompressed(source), limits)
    reader = TarReader(tar)
    tree = Tree(limits)
    writer = SquashfsWriter(file)
    shown_bytes = 0
    for entry in reader:
        node = tree.place(entry)
        if node is None or entry.kind is not Kind.FILE:
            continue
        # A sparse file of any size fits into a few bytes of tar, but costs a word a block of us.
        shown_bytes += entry.size_bytes
        if shown_bytes > limits.layer_bytes:
            raise _too_large(limits)
        if entry.pieces is None:
            node.content = writer.add_file(entry.size_bytes, reader.read)
        else:
            node.content = writer.add_sparse_file(entry.size_bytes, entry.pieces, reader.read)
    reader.drain()
    squashfs_bytes = writer.finish(tree.root)
    file.truncate(-(-squashfs_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES)
    return WrittenLayer(tar.diff_id, tar.size_bytes, squashfs_bytes, tree.entries)


class _Metered:
    """`source`, with every byte that is read hashed and counted."""

    def __init__(self, source: Source, limits: Limits) -> None:
        self.size_bytes = 0
        self._source = source
        self._limits = limits
        self._hash = hashlib.sha256()

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self.size_bytes += len(data)
        if self.size_bytes > self._limits.layer_bytes:
            raise _too_large(self._limits)
        self._hash.update(data)
        return data


def _too_large(limits: Limits) -> InvalidRequest:
    return InvalidRequest(
        f"the layer is refused: it unpacks to more than {limits.layer_bytes} bytes"
        " (if it is no decompression bomb, raise the setting max_layer_bytes)"
    )
