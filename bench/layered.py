"""Images as registries have them, made of this machine's own files: Debian's root in pieces, libraries, small files.

Everything is cut and compressed anew in each run (gzip, level 6: what `docker push` does), so that no figure hangs on
what an earlier run has left.
"""

import gzip
import hashlib
import io
import os
import sysconfig
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path

from harness.docker_registry import GzipLayer
from harness.images import debian_root

MIB = 1 << 20
_DEBIAN_SHARES = (0.5, 0.2, 0.2, 0.1)
_LARGEST_FILE = 16 * MIB
"""Single files beyond it would make a layer of one file."""

Member = tuple[tarfile.TarInfo, bytes]


def eight_layers(mib: int) -> list[GzipLayer]:
    """An image of about `mib` MiB, unpacked, in eight layers; four of them are Debian's root."""
    debian = list(_debian_parts())
    rest = max(8, mib - sum(map(len, debian)) // MIB)
    libraries, binaries = Path(f"/usr/lib/{os.uname().machine}-linux-gnu"), Path("/usr/bin")
    small = Path(sysconfig.get_path("stdlib"))
    return _compressed(
        [
            *debian,
            _tar(_files([libraries], rest * MIB * 4 // 10)),
            _tar(_files([small], rest * MIB * 3 // 10)),
            _tar(_files([binaries], rest * MIB * 2 // 10)),
            _tar(_files([Path("/usr/share/doc"), Path("/usr/share")], rest * MIB // 10)),
        ]
    )


def one_layer(mib: int) -> GzipLayer:
    """A layer of about `mib` MiB that is in no image of `eight_layers`."""
    return _compressed([_tar(_files([Path("/usr/share")], mib * MIB, below="srv"))])[0]


def _debian_parts() -> Iterator[bytes]:
    """Debian's root, cut at members; a hard link goes where its file is."""
    with tarfile.open(debian_root()) as archive:
        members = [(info, _data(archive, info)) for info in archive]
    total = sum(len(data) for _, data in members)
    bounds = [share * total for share in accumulate(_DEBIAN_SHARES)]
    parts: list[list[Member]] = [[] for _ in bounds]
    part_of: dict[str, int] = {}
    seen = part = 0
    for info, data in members:
        seen += len(data)
        while part + 1 < len(bounds) and seen > bounds[part]:
            part += 1
        part_of[info.name] = part_of[info.linkname] if info.islnk() else part
        parts[part_of[info.name]].append((info, data))
    return (_tar(part) for part in parts)


def _data(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(info) if info.isreg() else None
    return file.read() if file is not None else b""


def _files(directories: Sequence[Path], most_bytes: int, below: str = "opt") -> Iterator[Member]:
    """The files in `directories`, in the order of their names, until there are `most_bytes`."""
    left = most_bytes
    for directory in directories:
        for where, names, files in os.walk(directory):
            names.sort()
            for name in sorted(files):
                path = Path(where, name)
                if path.is_symlink() or not path.is_file() or path.stat().st_size > min(_LARGEST_FILE, left):
                    continue
                info = tarfile.TarInfo(f"{below}{path}")
                info.size, info.mode = path.stat().st_size, path.stat().st_mode & 0o777
                yield info, path.read_bytes()
                left -= info.size
                if left < most_bytes // 100:
                    return


def _tar(members: Iterable[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _compressed(tars: Sequence[bytes]) -> list[GzipLayer]:
    with ThreadPoolExecutor() as executor:
        blobs = executor.map(lambda tar: gzip.compress(tar, 6, mtime=0), tars)
        return [
            GzipLayer(blob, f"sha256:{hashlib.sha256(tar).hexdigest()}", len(tar))
            for blob, tar in zip(blobs, tars, strict=True)
        ]
