"""Any tree, as a tar, as a layer, and unpacked again by the squashfs-tools, is the same tree."""

import io
import os
import shutil
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.archives import Member, device, directory, file, hard_link, member, symlink, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.image.layer import write_layer

BLOCK = 128 << 10
NAMES = st.one_of(
    st.sampled_from(["a", "b", "c", "d"]),
    st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40).filter(
        lambda name: name not in (".", "..") and not name.startswith(".wh.") and len(name.encode()) < 250
    ),
    st.integers(100, 250).map(lambda length: "n" * length),
)
OWNERS = st.sampled_from([0, 1000, 65_534, 65_536, 2_000_000, 2**32 - 2])
SIZES = st.sampled_from([0, 1, 511, 512, 4096, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK])
TIMES = st.sampled_from([0, 1, 0.5, 1_700_000_000.999, 2**31 - 1, 2**31, 2**32 - 1])
ATTRIBUTES = st.fixed_dictionaries({"mode": st.integers(0, 0o7777), "uid": OWNERS, "gid": OWNERS, "mtime": TIMES})
XATTRS = st.dictionaries(
    st.sampled_from(["user.reef", "trusted.x", "security.selinux"]), st.text("xyz\n\0", max_size=20), max_size=2
)


@dataclass(frozen=True)
class Found:
    """What a file is: type, mode, owner, time, device, content or target, xattrs."""

    kind: int
    mode: int
    owner: tuple[int, int]
    mtime_s: int
    device: int
    data: bytes
    xattrs: tuple[tuple[str, bytes], ...]


@st.composite
def trees(draw: st.DrawFn) -> list[Member]:
    """Members for distinct places, directories before what is in them."""
    places = [""]
    members: list[Member] = []
    files: list[str] = []
    taken: set[str] = set()
    for _ in range(draw(st.integers(0, 10))):
        path = draw(st.sampled_from(places)) + draw(NAMES)
        if path in taken or len(path.encode()) > 4000:
            continue
        taken.add(path)
        attributes = draw(ATTRIBUTES)
        match draw(st.sampled_from(["file", "directory", "symlink", "device", "fifo", "link"])):
            case "file":
                pieces = draw(st.sampled_from([b"\0", b"x", b"\0" * BLOCK + b"y" * BLOCK]))
                size = draw(SIZES)
                data = (pieces * (size // len(pieces) + 1))[:size]
                members.append(file(path, data, xattrs=draw(XATTRS), **attributes))
                files.append(path)
            case "directory":
                members.append(directory(path, **attributes))
                places.append(f"{path}/")
            case "symlink":
                members.append(symlink(path, draw(NAMES)))
            case "device":
                members.append(device(path, draw(st.integers(1, 4095)), draw(st.integers(0, 2**20 - 1))))
            case "fifo":
                members.append(member(path, tarfile.FIFOTYPE, **attributes))
            case "link" if files:
                members.append(hard_link(path, draw(st.sampled_from(files))))
    return members


def expected(members: list[Member]) -> dict[str, Found]:
    found: dict[str, Found] = {}
    kinds = {
        tarfile.REGTYPE: stat.S_IFREG,
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.FIFOTYPE: stat.S_IFIFO,
    }
    for info, data in members:
        if info.type == tarfile.LNKTYPE:
            found[info.name] = found[info.linkname]
            continue
        xattrs = sorted(
            (name.removeprefix("SCHILY.xattr."), value.encode()) for name, value in info.pax_headers.items()
        )
        found[info.name] = Found(
            kinds[info.type],
            0o777 if info.issym() else info.mode,
            (info.uid, info.gid),
            int(info.mtime),
            os.makedev(info.devmajor, info.devminor) if info.ischr() else 0,
            info.linkname.encode() if info.issym() else data,
            tuple(xattrs),
        )
    return found


def unpacked(root: Path) -> dict[str, Found]:
    found: dict[str, Found] = {}
    for where, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(where, name)
            status = path.lstat()
            data = b""
            if path.is_symlink():
                data = os.fsencode(path.readlink())
            elif path.is_file():
                data = path.read_bytes()
            xattrs = sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
            )
            found[str(path.relative_to(root))] = Found(
                stat.S_IFMT(status.st_mode),
                stat.S_IMODE(status.st_mode),
                (status.st_uid, status.st_gid),
                int(status.st_mtime),
                status.st_rdev,
                data,
                tuple(xattrs),
            )
    return found


@settings(max_examples=80)
@given(trees())
def test_a_tree_comes_out_of_its_layer_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    scratch = tmp_path_factory.mktemp("round-trip")
    with io.FileIO(scratch / "layer", "w+") as image:
        assert write_layer(io.BytesIO(tar(members)), image).entries == len(members)
    command = ["unsquashfs", "-quiet", "-no-progress", "-d", scratch / "root", scratch / "layer"]
    subprocess.run(command, check=True, capture_output=True)
    assert unpacked(scratch / "root") == expected(members)
    links = [info.name for info, _ in members if info.type == tarfile.LNKTYPE]
    targets = {info.name: info.linkname for info, _ in members}
    assert all((scratch / "root" / name).samefile(scratch / "root" / targets[name]) for name in links)
    shutil.rmtree(scratch)
