"""Tar archives as tests want them, written by Python's tarfile, which shares no code with ours."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence

Member = tuple[tarfile.TarInfo, bytes]


def file(path: str, data: bytes = b"", **attributes: object) -> Member:
    """A regular file."""
    return member(path, tarfile.REGTYPE, data, **attributes)


def directory(path: str, **attributes: object) -> Member:
    """A directory."""
    attributes.setdefault("mode", 0o755)
    return member(path, tarfile.DIRTYPE, b"", **attributes)


def symlink(path: str, target: str) -> Member:
    """A symbolic link."""
    return member(path, tarfile.SYMTYPE, linkname=target)


def hard_link(path: str, target: str) -> Member:
    """A hard link to a file of the same archive."""
    return member(path, tarfile.LNKTYPE, linkname=target)


def device(path: str, major: int, minor: int, *, block: bool = False) -> Member:
    """A device node."""
    return member(path, tarfile.BLKTYPE if block else tarfile.CHRTYPE, devmajor=major, devminor=minor)


def member(path: str, kind: bytes, data: bytes = b"", **attributes: object) -> Member:
    """A member of any type; `attributes` are those of `TarInfo`, `xattrs` a dictionary."""
    info = tarfile.TarInfo(path)
    info.type = kind
    info.size = len(data)
    xattrs = attributes.pop("xattrs", {})
    assert isinstance(xattrs, dict)
    info.pax_headers = {f"SCHILY.xattr.{name}": value for name, value in xattrs.items()}
    for name, value in attributes.items():
        setattr(info, name, value)
    return info, data


def tar(members: Iterable[Member], *, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """The archive of `members`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def image_archive(layers: Sequence[bytes], name: str) -> bytes:
    """What `docker save` makes of an image of these layers, bottom first."""
    diff_ids = [f"sha256:{hashlib.sha256(layer).hexdigest()}" for layer in layers]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    }
    files = {f"{number}.tar": layer for number, layer in enumerate(layers)}
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": list(files)}]
    files |= {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    return tar(file(path, data) for path, data in files.items())
