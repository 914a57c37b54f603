"""Layers on their way here: what came of one is kept when its download breaks, and the next one goes on from there.

The bytes that are here already are read first, hashed and made into the layer once more, then those of the network.
They may be wrong, after a power cut: the digest of the whole tells, and then everything is fetched anew.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from weakref import WeakValueDictionary

from atoll.errors import InvalidRequest, OutOfSpace
from atoll.image.blobs import BlobStore, BlobWriter
from atoll.image.durable import space_errors
from atoll.image.feed import consume
from atoll.image.layers import LayerStore
from atoll.image.limits import Limits
from atoll.image.oci import Descriptor
from atoll.image.progress import Line, Report
from atoll.image.tarstream import Source

ChunksFrom = Callable[[int], AsyncGenerator[bytes, None]]
"""The bytes of a blob from the given one on."""

_KEPT_S = 24 * 3600.0
_CHUNK = 1 << 20


class Downloads:
    """Blobs that are not whole yet, by digest, below `root`; one download for all who want the same."""

    def __init__(self, root: Path, blobs: BlobStore, layers: LayerStore, limits: Limits) -> None:
        """Open the directory, on the file system of `blobs`, and sweep out what nobody came back for in a day."""
        self._root = root
        self._blobs = blobs
        self._layers = layers
        self._limits = limits
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watching: dict[str, list[Report]] = {}
        root.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def alone(self, digest: str) -> asyncio.Lock:
        """To be held around `fetch`; who wants the same blob waits here."""
        return self._locks.setdefault(digest, asyncio.Lock())

    @contextmanager
    def watching(self, digest: str, report: Report) -> Iterator[None]:
        """Let `report` be told, while the block lasts, how the download of a blob goes, whoever began it."""
        reports = self._watching.setdefault(digest, [])
        reports.append(report)
        try:
            yield
        finally:
            reports.remove(report)
            if not reports:
                del self._watching[digest]

    def tell(self, digest: str, line: Line) -> None:
        """Tell all who watch a blob."""
        for report in self._watching.get(digest, ()):
            report(line)

    async def fetch(self, diff_id: str, descriptor: Descriptor, chunks: ChunksFrom) -> None:
        """Make a layer of a blob while it comes, and keep both.

        Raises `InvalidRequest` when either is not what it should be, `OutOfSpace`, and what `chunks` raises; only then
        what came is kept for the next time.
        """
        self._sweep()
        begun_bytes = self._begun_bytes(descriptor)
        try:
            await self._fetch_rest(diff_id, descriptor, chunks(begun_bytes))
        except InvalidRequest:
            if not begun_bytes:
                raise
            await self._fetch_rest(diff_id, descriptor, chunks(0))

    async def _fetch_rest(self, diff_id: str, descriptor: Descriptor, chunks: AsyncGenerator[bytes, None]) -> None:
        await consume(chunks, lambda source: self._store(source, diff_id, descriptor))

    def _sweep(self) -> None:
        for path in self._root.iterdir():
            # Another download may be done with its file meanwhile.
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < time.time() - _KEPT_S:
                    path.unlink()

    def _begun_bytes(self, descriptor: Descriptor) -> int:
        path = self._path(descriptor.digest)
        try:
            begun_bytes = path.stat().st_size
        except FileNotFoundError:
            return 0
        if begun_bytes > descriptor.size:
            path.unlink()
            return 0
        # It is in use again: not to be swept out while it is read.
        os.utime(path)
        return begun_bytes

    def _store(self, source: Source, diff_id: str, descriptor: Descriptor) -> None:
        path = self._path(descriptor.digest)
        try:
            with space_errors(self._root), FileIO(_open(path), "r+") as file:
                writer = BlobWriter(file, min(descriptor.size, self._limits.blob_bytes))
                joined = _Resumed(file, writer, source)
                try:
                    self._layers.make(joined, diff_id, self._limits)
                except InvalidRequest:
                    # A damaged download shows as a broken tar first; what is wrong is the blob.
                    while joined.read(_CHUNK):
                        pass
                    writer.verify(descriptor.digest, descriptor.size)
                    raise
                writer.verify(descriptor.digest, descriptor.size)
            self._blobs.adopt(path, descriptor.digest)
            path.unlink()
        except (InvalidRequest, OutOfSpace):
            path.unlink(missing_ok=True)
            raise
        except BaseException:
            if path.exists() and not path.stat().st_size:
                path.unlink()
            raise

    def _path(self, digest: str) -> Path:
        return self._root / digest.removeprefix("sha256:")


class _Resumed:
    """What `file` holds, then `source`, whose bytes are added to it."""

    def __init__(self, file: FileIO, writer: BlobWriter, source: Source) -> None:
        self._file = file
        self._writer = writer
        self._source = source
        self._is_behind = True

    def read(self, size: int, /) -> bytes:
        if self._is_behind:
            if data := self._file.read(size):
                self._writer.count(data)
                return data
            self._is_behind = False
        data = self._source.read(size)
        self._writer.write(data)
        return data


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
