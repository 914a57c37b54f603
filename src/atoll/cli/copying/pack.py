"""Files of the host into a tar, piece by piece as it is sent."""

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from atoll.cli.errors import Failure

CHUNK_BYTES = 1 << 20


def packed(path: str, name: str) -> Iterator[bytes]:
    """`path` and all below it as a tar, called `name` in it; without a name only what is below it.

    A link is packed as one, unless `path` ends in a slash. Raises `Failure` for what cannot be read.
    """
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as inodes:
        yield from _tree(inodes, path, name)
    yield bytes(tarfile.BLOCKSIZE * 2)


def _tree(inodes: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    try:
        is_directory = stat.S_ISDIR(os.lstat(path).st_mode)
        if name:
            yield from _entry(inodes, path, name)
        with ExitStack() as stack:
            children = sorted(entry.name for entry in stack.enter_context(os.scandir(path))) if is_directory else []
    except OSError as error:
        raise Failure(f"{path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    for child in children:
        yield from _tree(inodes, f"{path.rstrip('/')}/{child}", f"{name}/{child}" if name else child)


def _entry(inodes: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    info = inodes.gettarinfo(path, name)
    if info is None:
        return  # a socket
    info.mtime = int(info.mtime)
    info.uname = info.gname = ""
    if not info.isreg():
        yield _head(info)
        return
    with Path(path).open("rb", buffering=0) as file:
        info.size = os.fstat(file.fileno()).st_size
        yield _head(info)
        left = info.size
        while left:
            # What is cut off meanwhile is told as zeros: its size is on the way already.
            data = file.read(min(left, CHUNK_BYTES)) or bytes(min(left, CHUNK_BYTES))
            left -= len(data)
            yield data
        yield bytes(-info.size % tarfile.BLOCKSIZE)


def _head(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
