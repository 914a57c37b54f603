"""The content store proper: blobs by the digest of their bytes, verified while they stream in."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from atoll.errors import InvalidRequest, NotFound
from atoll.image.durable import new_file, space_errors, sync_directory, sync_file, write_fully


def digest_of(data: bytes) -> str:
    """The digest of `data`, `sha256:...`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class BlobWriter:
    """Takes a blob's bytes as they come; `digest` and `size_bytes` are those of what came so far."""

    def __init__(self, file: FileIO, limit_bytes: int) -> None:
        self.size_bytes = 0
        self._file = file
        self._limit_bytes = limit_bytes
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        """`sha256:...` of the bytes written."""
        return f"sha256:{self._hash.hexdigest()}"

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`; raises `InvalidRequest` beyond the size that was announced or allowed."""
        self.count(data)
        write_fully(self._file, data)

    def count(self, data: bytes | memoryview) -> None:
        """Take `data` for the next bytes of the blob, which the file has already; raises as `write` does."""
        self.size_bytes += len(data)
        if self.size_bytes > self._limit_bytes:
            raise InvalidRequest(f"a blob is larger than the {self._limit_bytes} bytes it may have")
        self._hash.update(data)

    def verify(self, digest: str, size_bytes: int) -> None:
        """Raise `InvalidRequest` unless what was written is what was announced."""
        if self.size_bytes != size_bytes:
            raise InvalidRequest(f"blob {digest} is cut off: {self.size_bytes} of {size_bytes} bytes came")
        if self.digest != digest:
            raise InvalidRequest(f"blob {digest} is not what it claims to be: its bytes have {self.digest}")


class BlobStore:
    """Blobs under `root`; every method blocks on the disk, so an event loop calls them in a thread."""

    def __init__(self, root: Path, ingest: Path) -> None:
        """Open the store; `ingest` holds unfinished blobs and must be on the same file system."""
        self._directory = root / "sha256"
        self._directory.mkdir(parents=True, exist_ok=True)
        sync_directory(root)
        self._ingest = ingest

    def path(self, digest: str) -> Path:
        """Where the blob is, or will be."""
        return self._directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).exists()

    def size_bytes(self, digest: str) -> int:
        """Bytes of the blob; -1 when it is not here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return -1

    @contextmanager
    def writer(self, *, limit_bytes: int) -> Iterator[BlobWriter]:
        """Write a blob; it is kept when the block ends well. Raises `InvalidRequest` beyond `limit_bytes`."""
        with new_file(self._ingest) as new:
            writer = BlobWriter(new.file, limit_bytes)
            yield writer
            if not self.has(writer.digest):
                new.keep_as(self.path(writer.digest))

    def add(self, data: bytes) -> str:
        """Keep `data` and return its digest."""
        with self.writer(limit_bytes=len(data)) as writer:
            writer.write(data)
        return writer.digest

    def adopt(self, path: Path, digest: str) -> None:
        """Keep the file at `path` (on this file system, not written to any more), whose bytes have `digest`."""
        if self.has(digest):
            return
        with space_errors(self._directory):
            sync_file(path)
            # A link and not a rename: who made the file may still read it under its own name.
            with suppress(FileExistsError):  # another one brought the same
                self.path(digest).hardlink_to(path)
            sync_directory(self._directory)

    def make_durable(self) -> None:
        """Let the names of all blobs that are here survive a power cut; blocks."""
        sync_directory(self._directory)

    def read(self, digest: str, *, limit_bytes: int) -> bytes:
        """A small blob, verified; raises `NotFound`, or `InvalidRequest` when it is too large or was damaged."""
        try:
            with self.path(digest).open("rb") as file:
                data = file.read(limit_bytes + 1)
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest} is not in the content store: load or pull the image again") from error
        if len(data) > limit_bytes:
            raise InvalidRequest(f"blob {digest} is larger than the {limit_bytes} bytes it may have")
        if digest_of(data) != digest:
            raise InvalidRequest(f"blob {digest} was damaged on disk: remove the image, then load or pull it again")
        return data

    def digests(self) -> list[str]:
        """Every blob that is here."""
        return [f"sha256:{path.name}" for path in self._directory.iterdir()]
