"""Hash trees of layers, with which a guest's kernel verifies each block of a layer when it reads it.

A tree is dm-verity's, format 1, without salt or superblock: https://docs.kernel.org/admin-guide/device-mapper/verity.html.
The trees are files; their roots are in the database, and reach a guest with the request that starts its container.
"""

import hashlib
from collections.abc import Iterator, Set
from io import FileIO
from pathlib import Path

from atoll.errors import InvalidRequest
from atoll.image.disk import HashTree
from atoll.image.durable import new_file, sha256_of, write_fully
from atoll.store.database import Database

SCHEMA = (
    """CREATE TABLE layer_verity (
        diff_id TEXT PRIMARY KEY,
        root BLOB NOT NULL
    ) STRICT""",
)

BLOCK_BYTES = 4096
_DIGEST_BYTES = 32
_PIECE_BYTES = 1 << 20
_SUFFIX = ".verity"


class TreeStore:
    """Trees below `root`, named by their layers' diff IDs; made when they are wanted first."""

    def __init__(self, root: Path, ingest: Path, database: Database) -> None:
        """Open the store; `ingest` holds unfinished trees and must be on the same file system."""
        self._root = root
        self._ingest = ingest
        self._database = database
        database.migrate(SCHEMA)
        root.mkdir(parents=True, exist_ok=True)

    def tree(self, diff_id: str, squashfs: Path) -> HashTree:
        """The tree of a layer. Blocks: the whole layer is read when the tree is made, the tree each time.

        A tree that is gone or damaged is made again.

        Raises `InvalidRequest` for a layer that is another one than when its root was taken, `OutOfSpace`.
        """
        path, known = self.path(diff_id), self._known(diff_id)
        if known is not None and _is_whole(path, known, squashfs.stat().st_size):
            return HashTree(path, known)
        with new_file(self._ingest) as new:
            with FileIO(squashfs) as layer:
                root = write_tree(layer, new.file)
            if known is not None and root != known:
                raise InvalidRequest(
                    f"layer {diff_id} was changed on disk: it does not have its root hash any more; "
                    "remove the image, then load or pull it again"
                )
            new.keep_as(path)
        if known is None:
            self._database.execute("INSERT OR REPLACE INTO layer_verity VALUES (?, ?)", (diff_id, root))
        return HashTree(path, root)

    def path(self, diff_id: str) -> Path:
        """Where the tree of a layer is, or will be."""
        return self._root / (diff_id.removeprefix("sha256:") + _SUFFIX)

    def is_sound(self, diff_id: str, squashfs: Path) -> bool:
        """Whether tree and root are those of the layer, as far as they are there; blocks as long as making them."""
        path, known = self.path(diff_id), self._known(diff_id)
        if known is None and not path.exists():
            return True
        with new_file(self._ingest) as new:
            with FileIO(squashfs) as layer:
                root = write_tree(layer, new.file)
            if not path.exists():
                return root == known
            new.file.seek(0)
            with FileIO(path) as tree:
                return root == known and sha256_of(new.file) == sha256_of(tree)

    def forget(self, diff_id: str) -> None:
        """Forget a layer's tree and root: they are made anew when they are wanted."""
        self._database.execute("DELETE FROM layer_verity WHERE diff_id = ?", (diff_id,))
        self.path(diff_id).unlink(missing_ok=True)

    def _known(self, diff_id: str) -> bytes | None:
        rows = self._database.query("SELECT root FROM layer_verity WHERE diff_id = ?", (diff_id,))
        return rows[0]["root"] if rows else None

    def forget_all_but(self, live: Set[str]) -> None:
        """Forget the roots of all layers but those in `live`."""
        for row in self._database.query("SELECT diff_id FROM layer_verity"):
            if row["diff_id"] not in live:
                self._database.execute("DELETE FROM layer_verity WHERE diff_id = ?", (row["diff_id"],))

    def all_but(self, live: Set[str]) -> set[Path]:
        """The trees of all layers but those in `live`."""
        trees = self._root.glob(f"*{_SUFFIX}")
        return {path for path in trees if f"sha256:{path.name.removesuffix(_SUFFIX)}" not in live}


def write_tree(data: FileIO, tree: FileIO) -> bytes:
    """Write the tree of all whole blocks of `data` into the empty `tree`, top level first; its root."""
    levels = [_level(_pieces(data))]
    while len(levels[-1]) > BLOCK_BYTES:
        levels.append(_level(iter([levels[-1]])))
    for level in reversed(levels):
        write_fully(tree, level)
    return hashlib.sha256(levels[-1]).digest()


def _is_whole(tree: Path, root: bytes, data_bytes: int) -> bool:
    """Whether a tree for so much data is there, and has this root."""
    try:
        content = tree.read_bytes()
    except OSError:
        return False
    sizes = [-(-data_bytes // BLOCK_BYTES * _DIGEST_BYTES // BLOCK_BYTES) * BLOCK_BYTES]
    while sizes[-1] > BLOCK_BYTES:
        sizes.append(-(-sizes[-1] // BLOCK_BYTES * _DIGEST_BYTES // BLOCK_BYTES) * BLOCK_BYTES)
    if len(content) != sum(sizes):
        return False
    above = root.ljust(BLOCK_BYTES, b"\0")
    at = 0
    for size in reversed(sizes):
        level = content[at : at + size]
        if _level(iter([level])) != above:
            return False
        above, at = level, at + size
    return True


def _pieces(data: FileIO) -> Iterator[bytes]:
    while piece := data.read(_PIECE_BYTES):
        yield piece


def _level(pieces: Iterator[bytes]) -> bytes:
    """The digests of all blocks, filled up to whole blocks with zeros."""
    digests = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        for start in range(0, len(piece), BLOCK_BYTES):
            digests += hashlib.sha256(view[start : start + BLOCK_BYTES]).digest()
    return bytes(digests) + bytes(-len(digests) % BLOCK_BYTES)
