"""Files that are there whole or not at all, whatever happens while they are written.

Written under a temporary name in a directory of the same file system, synced, renamed, and the directory synced:
after a crash there is the old state or the new one, and at most a temporary file that the next start sweeps away.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from atoll.errors import OutOfSpace

_CHUNK = 1 << 20


class NewFile:
    """A file under a temporary name: write to `file` (unbuffered), then say what it is to be."""

    def __init__(self, file: FileIO) -> None:
        self.file = file
        self.path: Path | None = None

    def keep_as(self, path: Path) -> None:
        """Let the file become `path` when the block ends well."""
        self.path = path


@contextmanager
def new_file(ingest: Path) -> Iterator[NewFile]:
    """A file to write; it vanishes when the block ends badly or without `keep_as`.

    `ingest` is the directory of temporary files. Raises `OutOfSpace` when the disk is full.
    """
    with space_errors(ingest):
        descriptor, name = tempfile.mkstemp(dir=ingest)
        try:
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                new = NewFile(file)
                yield new
                if new.path is not None:
                    os.fsync(descriptor)
                    Path(name).rename(new.path)
                    sync_directory(new.path.parent)
        finally:
            Path(name).unlink(missing_ok=True)


@contextmanager
def space_errors(where: Path) -> Iterator[None]:
    """Turns the system's word for a full disk (or quota) into `OutOfSpace`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutOfSpace(f"no space left on the disk that holds {where}: make room, or remove images") from error
        raise


def sync_directory(path: Path) -> None:
    """Make the names in `path` durable."""
    sync_file(path)


def sync_file(path: Path) -> None:
    """Make what `path` holds durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(file: FileIO) -> str:
    """The hexadecimal SHA-256 of the rest of `file`."""
    hashed = hashlib.sha256()
    while data := file.read(_CHUNK):
        hashed.update(data)
    return hashed.hexdigest()


def write_fully(file: FileIO, data: bytes | bytearray | memoryview) -> None:
    """Write all of `data` to the unbuffered `file`: one write(2) takes at most 2 GiB, and less on a full disk."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
