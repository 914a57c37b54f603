"""A tar from a container into a directory of the host.

The container may have written anything into it. So every name is looked up from the directory on by descriptors, no
link is followed on the way, and only what was made here is linked to or dressed. Devices, setuid and owners come with
`--archive` only.
"""

import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import RawIOBase
from pathlib import Path
from typing import IO, cast

from atoll.cli.copying.places import Target
from atoll.cli.errors import Failure

CHUNK_BYTES = 1 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

Parts = tuple[str, ...]


class Incoming(RawIOBase):
    """Bytes that come in chunks, as a file to read; `count` is how many were read."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.count = 0
        self._chunks = chunks
        self._rest = b""

    def readable(self) -> bool:
        """It is for reading."""
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        """At most `size` bytes, none at the end."""
        if not self._rest:
            self._rest = next(self._chunks, b"")
        length = len(self._rest) if size is None or size < 0 else size
        data, self._rest = self._rest[:length], self._rest[length:]
        self.count += len(data)
        return data


class Unpacker:
    """Extracts one archive; `source` is the name that its entries begin with, empty when they have no such name."""

    def __init__(self, source: str, target: Target, *, is_exact: bool, warn: Callable[[str], None]) -> None:
        self._source = source
        self._target = target
        self._is_exact = is_exact
        self._warn = warn
        self._made: set[Parts] = set()

    def extract(self, archive: Incoming) -> None:
        """Extract all of it; raises `Failure` for what cannot be, or must not."""
        directories: list[tuple[Parts, tarfile.TarInfo]] = []
        try:
            root = os.open(self._target.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Failure(f"open {self._target.directory}: {_reason(error)}") from error
        try:
            # The stream is a file as far as tarfile is concerned: it reads.
            source = cast("IO[bytes]", archive)
            with tarfile.open(fileobj=source, mode="r|", bufsize=CHUNK_BYTES, errorlevel=2) as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # it would remember every one, and its stubs hide that
                    parts = self._parts(member.name)
                    if not parts:
                        continue
                    self._extract(root, tar, member, parts)
                    if member.isdir() and parts in self._made:
                        directories.append((parts, member))
            for parts, member in reversed(directories):
                with _parent(root, parts) as parent:
                    self._dress(parent, parts[-1], member)
        except tarfile.TarError as error:
            raise Failure(f"the archive from the container is damaged: {error}") from error
        finally:
            os.close(root)

    def _parts(self, name: str) -> Parts:
        """Where an entry goes, below the target's directory."""
        parts = tuple(part for part in name.split("/") if part not in ("", "."))
        if ".." in parts:
            raise Failure(f"the archive from the container is refused: {name!r} leads out of the destination")
        if self._source:
            if parts[:1] != (self._source,):
                raise Failure(f"the archive from the container is refused: {name!r} is not what was asked for")
            parts = parts[1:]
        return (self._target.name, *parts) if self._target.name else parts

    def _extract(self, root: int, tar: tarfile.TarFile, member: tarfile.TarInfo, parts: Parts) -> None:
        *_, name = parts
        try:
            with _parent(root, parts) as parent:
                if not _make_room(parent, name, member, "/".join(parts)):
                    return
                if member.isdir():
                    os.mkdir(name, 0o700, dir_fd=parent)
                elif member.issym():
                    os.symlink(member.linkname, name, dir_fd=parent)
                elif member.islnk():
                    self._link(root, member, parent, name)
                elif member.isreg():
                    self._write(tar, member, parent, name)
                elif not self._make_special(member, parent, name):
                    return
                self._made.add(parts)
                if not (member.isdir() or member.islnk()):
                    self._dress(parent, name, member)
        except OSError as error:
            raise Failure(f"{'/'.join((self._target.directory, *parts))}: {_reason(error)}") from error

    def _link(self, root: int, member: tarfile.TarInfo, parent: int, name: str) -> None:
        first = self._parts(member.linkname)
        if first not in self._made:
            raise Failure(f"the archive from the container is refused: {member.name!r} links to what is not in it")
        with _parent(root, first) as directory:
            os.link(first[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)

    def _write(self, tar: tarfile.TarFile, member: tarfile.TarInfo, parent: int, name: str) -> None:
        content = tar.extractfile(member)
        assert content is not None, "a regular file has content"
        with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=parent), "wb", buffering=0) as file:
            while data := content.read(CHUNK_BYTES):
                if member.sparse is not None and not data.strip(b"\0"):
                    file.seek(len(data), os.SEEK_CUR)
                    continue
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
            file.truncate(file.tell())

    def _make_special(self, member: tarfile.TarInfo, parent: int, name: str) -> bool:
        if member.isfifo():
            os.mkfifo(name, 0o600, dir_fd=parent)
            return True
        if member.isdev() and self._is_exact:
            kind = stat.S_IFCHR if member.ischr() else stat.S_IFBLK
            os.mknod(name, kind | 0o600, os.makedev(member.devmajor, member.devminor), dir_fd=parent)
            return True
        self._warn(f"skipped {member.name}: a device is copied with --archive only")
        return False

    def _dress(self, parent: int, name: str, member: tarfile.TarInfo) -> None:
        if self._is_exact and os.geteuid() == 0:
            os.chown(name, member.uid, member.gid, dir_fd=parent, follow_symlinks=False)
        if not member.issym():
            # No link: it was made a moment ago. One that has taken its place is not followed, and not changed.
            mode = member.mode & (0o7777 if self._is_exact else 0o777)
            descriptor = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                if not stat.S_ISLNK(os.fstat(descriptor).st_mode):
                    Path(f"/proc/self/fd/{descriptor}").chmod(mode)
            finally:
                os.close(descriptor)
        with suppress(OverflowError):  # a time that no file can have
            os.utime(name, (member.mtime, member.mtime), dir_fd=parent, follow_symlinks=False)


@contextmanager
def _parent(root: int, parts: Parts) -> Iterator[int]:
    """The directory that the last of `parts` is in; those on the way are made when they are missing."""
    directory = os.dup(root)
    try:
        for part in parts[:-1]:
            try:
                following = os.open(part, _DIRECTORY, dir_fd=directory)
            except FileNotFoundError:
                os.mkdir(part, 0o755, dir_fd=directory)
                following = os.open(part, _DIRECTORY, dir_fd=directory)
            except NotADirectoryError:
                raise Failure(
                    f"the archive from the container is refused: {'/'.join(parts)} goes through {part},"
                    " which is no directory"
                ) from None
            os.close(directory)
            directory = following
        yield directory
    finally:
        os.close(directory)


def _make_room(parent: int, name: str, member: tarfile.TarInfo, shown: str) -> bool:
    """Take away what is in the way; False when nothing is to be made. A directory stays what it is, as in Docker."""
    try:
        there = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        return True
    is_directory = stat.S_ISDIR(there.st_mode)
    if is_directory and member.isdir():
        return False
    if is_directory:
        raise Failure(f'cannot overwrite directory "{shown}" with non-directory "{member.name}"')
    if member.isdir():
        raise Failure(f'cannot overwrite non-directory "{shown}" with directory "{member.name}"')
    os.unlink(name, dir_fd=parent)
    return True


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
