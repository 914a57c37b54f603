"""A container's writable layer, or a volume: a sparse ext4 of its own, formatted once per size and copied at once.

It keeps a journal: `kill -9` of a VM, a crash of its kernel or of the host cuts writes off anywhere, and the container
may be started again from the same disk. Without one the guest would need e2fsck, which it does not have.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from atoll.errors import InvalidRequest, Unavailable
from atoll.image.durable import new_file, space_errors

LEAST_BYTES = 16 << 20
MOST_BYTES = 16 << 40

OVERLAY_DIRECTORIES = ("upper", "work")
"""What a writable layer begins with, as the agent names them."""
VOLUME_DIRECTORIES = ("data",)
"""The same of a volume; containers see this directory."""
_BLOCK_BYTES = 4096
_MIB = 1 << 20
_FORMAT = 2
"""Part of the name of a formatted disk: raised when what `_format` makes changes."""

# Named one by one, so that no host's mke2fs.conf decides. Left out: resize_inode (room for growing online, which
# such a disk never does), orphan_file and metadata_csum_seed (not known to kernels before 5.15 and 4.4).
_FEATURES = (
    "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,"
    "extra_isize,metadata_csum"
)


_PLAIN = {"LC_ALL": "C"}


def make_writable_disk(
    path: Path, size_bytes: int, cache: Path, ingest: Path, directories: Sequence[str] = OVERLAY_DIRECTORIES
) -> None:
    """Make an ext4 of `size_bytes` with empty `directories` of root's at `path`; blocks for milliseconds.

    `cache` keeps one formatted disk a size. Raises `InvalidRequest` for a size that cannot be, `Unavailable` without
    mke2fs, `OutOfSpace` on a full disk.
    """
    if not LEAST_BYTES <= size_bytes <= MOST_BYTES:
        raise InvalidRequest(
            f"a disk of {size_bytes} bytes cannot be made: it has between {LEAST_BYTES >> 20} MiB and 16 TiB"
        )
    size_bytes -= size_bytes % _BLOCK_BYTES
    formatted = cache / f"{size_bytes}-{'-'.join(directories)}-{_FORMAT}.ext4"
    if not formatted.exists():
        with new_file(ingest) as new:
            new.file.truncate(size_bytes)
            _format(new.file.fileno(), size_bytes, directories)
            new.keep_as(formatted)
    with space_errors(path.parent):
        _copy_sparse(formatted, path)


def _format(descriptor: int, size_bytes: int, directories: Sequence[str]) -> None:
    program = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None:
        raise Unavailable("mke2fs is missing, which formats the writable layer: install the package e2fsprogs")
    # What the journal has once used stays allocated on the host: no larger than is useful.
    journal_mib = 32 if size_bytes >= 1024 * _MIB else 8 if size_bytes >= 128 * _MIB else 4
    command = [program, "-q", "-F", "-t", "ext4"]
    command += ["-b", str(_BLOCK_BYTES), "-I", "256", "-i", "16384"]
    command += ["-m", "0"]  # nothing kept back for root: the quota is all the container's
    command += ["-J", f"size={journal_mib}", "-O", _FEATURES]
    command += ["-G", "64"]  # metadata of many groups side by side: fewer pieces to copy and to read
    # The file is a hole, so the inode tables are zero already: neither mke2fs nor the guest's kernel need write them.
    command += ["-E", "assume_storage_prezeroed=1,lazy_itable_init=0,nodiscard,root_owner=0:0"]
    with tempfile.TemporaryDirectory() as content:
        # What overlayfs needs is there from the start: a guest makes a directory in more than 5 ms when emulated.
        for name in directories:
            (Path(content) / name).mkdir()
            (Path(content) / name).chmod(0o755)
        command += ["-d", content, f"/proc/self/fd/{descriptor}"]
        done = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, timeout=60, env=_PLAIN)
    if done.returncode != 0:
        if os.strerror(errno.ENOSPC) in done.stderr:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reason = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise Unavailable(f"mke2fs could not format a disk of {size_bytes} bytes: {reason[0]}")


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy what is not a hole. Not synced: after a power cut an unstarted container is no loss."""
    from_descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(from_descriptor).st_size
        to_descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(to_descriptor, size)
            end = 0
            while (start := _next_data(from_descriptor, end)) is not None:
                end = os.lseek(from_descriptor, start, os.SEEK_HOLE)
                _copy_range(from_descriptor, to_descriptor, start, end)
        except BaseException:
            target.unlink()
            raise
        finally:
            os.close(to_descriptor)
    finally:
        os.close(from_descriptor)


def _next_data(descriptor: int, position: int) -> int | None:
    try:
        return os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def _copy_range(source: int, target: int, start: int, end: int) -> None:
    """Let the kernel copy, which shares blocks where the file system can; by hand between file systems."""
    while start < end:
        try:
            copied = os.copy_file_range(source, target, end - start, start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            copied = os.pwrite(target, os.pread(source, min(end - start, _MIB), start), start)
        start += copied
