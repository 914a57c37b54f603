import bz2
import gzip
import hashlib
import io
import lzma
import os
import random
import stat
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from backports import zstd
from harness.archives import Member, device, directory, file, hard_link, member, symlink, tar
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import InvalidRequest
from atoll.image.layer import ALIGNMENT_BYTES, WrittenLayer, write_layer
from atoll.image.limits import Limits

MAGIC = b"hsqs"


def write(data: bytes, path: Path, limits: Limits = Limits(layer_bytes=1 << 28)) -> WrittenLayer:  # noqa: B008
    with io.FileIO(path, "w+") as image:
        return write_layer(io.BytesIO(data), image, limits)


def unpack(data: bytes, tmp_path: Path) -> Path:
    """The layer of `data`, unpacked by the squashfs-tools."""
    write(data, tmp_path / "layer.squashfs")
    command = ["unsquashfs", "-quiet", "-no-progress", "-d", tmp_path / "root", tmp_path / "layer.squashfs"]
    subprocess.run(command, check=True, capture_output=True)
    return tmp_path / "root"


def names(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def test_files_of_every_kind_come_through_with_their_attributes(tmp_path: Path) -> None:
    root = unpack(
        tar(
            [
                directory("./", mode=0o751, uid=7, gid=8, mtime=1234567890),
                directory("d", mode=0o1777, uid=100_000, gid=4_000_000_000),
                file("d/f", b"reef", mode=0o4755, uid=70_000, mtime=1_000_000_000.25),
                hard_link("g", "d/f"),
                symlink("s", "/nowhere/../x"),
                device("null", 1, 3),
                device("disk", 259, 300, block=True),
                member("pipe", tarfile.FIFOTYPE, mode=0o600),
                file("empty"),
                file("before-1970", mtime=-5.5),
            ]
        ),
        tmp_path,
    )
    assert (root.stat().st_mode, root.stat().st_uid, root.stat().st_mtime) == (stat.S_IFDIR | 0o751, 7, 1234567890)
    assert (root / "d").stat().st_gid == 4_000_000_000
    assert (root / "d").stat().st_mode == stat.S_IFDIR | 0o1777
    f = (root / "d/f").stat()
    assert (f.st_mode, f.st_uid, f.st_nlink, f.st_mtime) == (stat.S_IFREG | 0o4755, 70_000, 2, 1_000_000_000)
    assert (root / "g").samefile(root / "d/f")
    assert (root / "s").readlink() == Path("/nowhere/../x")
    assert stat.S_ISCHR((root / "null").stat().st_mode)
    assert (root / "null").stat().st_rdev == os.makedev(1, 3)
    assert (root / "disk").stat().st_rdev == os.makedev(259, 300)
    assert (root / "pipe").is_fifo()
    assert (root / "empty").stat().st_size == 0
    assert (root / "before-1970").stat().st_mtime == 0


def test_whiteouts_become_what_overlayfs_wants(tmp_path: Path) -> None:
    root = unpack(
        tar(
            [
                directory("a"),
                file("a/.wh.gone"),
                directory("b"),
                file("b/.wh..wh..opq"),
                file("b/new"),
                file("missing/dir/.wh.x"),
                file(".wh..wh.plnk"),
                file("c/.wh..wh..opq"),
            ]
        ),
        tmp_path,
    )
    assert names(root) == ["a", "a/gone", "b", "b/new", "c", "missing", "missing/dir", "missing/dir/x"]
    assert stat.S_ISCHR((root / "a/gone").stat().st_mode)
    assert (root / "a/gone").stat().st_rdev == 0
    assert os.getxattr(root / "b", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(root / "c", "trusted.overlay.opaque") == b"y"
    assert not os.listxattr(root / "a")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_whiteout_hides_what_is_below_and_not_what_its_own_layer_brings(tmp_path: Path, swapped: bool) -> None:
    whiteouts = [file(".wh.d"), file(".wh.f")]
    new = [directory("d"), file("d/x"), file("f", b"new")]
    root = unpack(tar(new + whiteouts if swapped else whiteouts + new), tmp_path)
    assert names(root) == ["d", "d/x", "f"]
    assert (root / "f").read_bytes() == b"new"
    assert os.getxattr(root / "d", "trusted.overlay.opaque") == b"y"


def test_an_absolute_path_begins_at_the_root_of_the_layer(tmp_path: Path) -> None:
    root = unpack(
        tar([file("/bin/app", b"app"), directory("//etc/"), file("./etc//x"), hard_link("/app", "/bin/app")]), tmp_path
    )
    assert names(root) == ["app", "bin", "bin/app", "etc", "etc/x"]
    assert (root / "app").samefile(root / "bin/app")


def test_a_path_through_a_symbolic_link_leads_to_a_place_in_the_layer(tmp_path: Path) -> None:
    root = unpack(
        tar(
            [
                directory("usr/lib"),
                symlink("lib", "usr/lib"),
                file("lib/a"),
                symlink("usr/up", "../../../../usr"),
                file("usr/up/up/lib/b"),
                symlink("abroad", "/nowhere/./yet"),
                file("abroad/c"),
                file("abroad/.wh.d"),
                hard_link("e", "abroad/c"),
                directory("lib"),
                file("lib/own"),
            ]
        ),
        tmp_path,
    )
    expected = ["abroad", "e", "lib", "lib/own", "nowhere", "nowhere/yet", "nowhere/yet/c", "nowhere/yet/d"]
    assert names(root) == [*expected, "usr", "usr/lib", "usr/lib/a", "usr/lib/b", "usr/up"]
    assert (root / "e").samefile(root / "nowhere/yet/c")
    assert stat.S_ISCHR((root / "nowhere/yet/d").stat().st_mode)


def test_xattrs_are_read_in_the_words_of_bsdtar_too(tmp_path: Path) -> None:
    info, _ = file("f")
    info.pax_headers = {
        "LIBARCHIVE.xattr.user.a%20b": "cmVlZg",
        "LIBARCHIVE.xattr.user.both": "eA==",
        "SCHILY.xattr.user.both": "coral",
    }
    root = unpack(tar([(info, b"")]), tmp_path)
    assert os.getxattr(root / "f", "user.a b") == b"reef"
    assert os.getxattr(root / "f", "user.both") == b"coral"


def test_of_a_name_in_both_extensions_gnu_tar_s_holds_as_for_docker(tmp_path: Path) -> None:
    long = header(type=b"L", size=b"4") + b"long".ljust(512, b"\0")
    root = unpack(pax(b"12 path=pax\n") + long + header(), tmp_path)
    assert names(root) == ["long"]


def test_of_entries_with_the_same_name_the_last_one_holds(tmp_path: Path) -> None:
    root = unpack(
        tar(
            [
                file("f", b"old"),
                file("f", b"new"),
                directory("d", mode=0o700),
                file("d/x"),
                directory("d", mode=0o755),
                directory("e"),
                file("e/x"),
                file("e", b"a file now"),
                file("h"),
                directory("h"),
                file("h/y"),
            ]
        ),
        tmp_path,
    )
    assert names(root) == ["d", "d/x", "e", "f", "h", "h/y"]
    assert (root / "f").read_bytes() == b"new"
    assert (root / "d").stat().st_mode & 0o777 == 0o755
    assert (root / "e").read_bytes() == b"a file now"


def test_xattrs_and_file_capabilities_are_kept_and_those_of_overlayfs_are_not(tmp_path: Path) -> None:
    capability = b"\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    text = capability.decode("utf-8")  # tarfile takes text; this value happens to be valid
    xattrs = {"security.capability": text, "user.reef": "coral", "trusted.overlay.redirect": "/etc"}
    root = unpack(tar([file("ping", xattrs=xattrs), directory("d", xattrs={"user.a": "b"})]), tmp_path)
    assert os.getxattr(root / "ping", "security.capability") == capability
    assert sorted(os.listxattr(root / "ping")) == ["security.capability", "user.reef"]
    assert os.getxattr(root / "d", "user.a") == b"b"


def test_names_are_bytes_and_may_be_long(tmp_path: Path) -> None:
    long = "/".join(["x" * 255] * 12)
    raw = tar([file("na\nme"), file("caf\udce9"), file(long, b"deep")], tar_format=tarfile.GNU_FORMAT)
    root = unpack(raw, tmp_path)
    assert (root / "na\nme").exists()
    assert os.path.exists(os.fsencode(root) + b"/caf\xe9")  # noqa: PTH110 - no UTF-8
    assert (root / long).read_bytes() == b"deep"


def test_directories_with_many_files_and_files_of_many_blocks_are_exact(tmp_path: Path) -> None:
    noise = random.Random(7).randbytes
    sizes = [1, 511, 512, 131071, 131072, 131073, 400_000]
    members: list[Member] = [file(f"f{size}", noise(size)) for size in sizes]
    members += [file("holes", bytes(262144) + noise(10) + bytes(300_000)), file("zeros", bytes(1 << 20))]
    members += [file(f"many/{'n' * (i % 90)}{i}", b"%d" % i) for i in range(5000)]
    root = unpack(tar(members), tmp_path)
    for info, data in members:
        assert (root / info.name).read_bytes() == data, info.name
    assert (root / "zeros").stat().st_blocks == 0


@pytest.mark.parametrize("how", ["--format=gnu", "--format=pax --sparse-version=0.0", "--sparse-version=0.1", "1.0"])
def test_sparse_files_of_gnu_tar_are_read_in_all_its_formats(tmp_path: Path, how: str) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as f:
        for i in range(60):
            f.seek(i * 300_001)
            f.write(b"%d" % i * 40)
        f.truncate(40_000_000)
    flags = "--format=pax --sparse-version=1.0" if how == "1.0" else how
    flags = f"--format=pax {flags}" if flags.startswith("--sparse-version") else flags
    command = ["tar", "--sparse", *flags.split(), "-C", tmp_path, "-c", "sparse"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    assert len(archive) < 1_000_000
    out = unpack(archive, tmp_path) / "sparse"
    assert out.read_bytes() == sparse.read_bytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd.compress])
def test_the_diff_id_is_that_of_the_plain_tar_however_it_is_compressed(
    tmp_path: Path, pack: Callable[[bytes], bytes]
) -> None:
    plain = tar([file("f", b"reef" * 100_000)]) + b"trailing bytes count as well"
    written = write(pack(plain), tmp_path / "layer")
    assert written.diff_id == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert written.tar_bytes == len(plain)


def test_compressed_streams_in_several_members_are_one_stream(tmp_path: Path) -> None:
    plain = tar([file("f", b"reef" * 1000)])
    skippable = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"
    diff_id = "sha256:" + hashlib.sha256(plain).hexdigest()
    for packed in (
        gzip.compress(plain[:700]) + gzip.compress(plain[700:]) + bytes(1000),
        zstd.compress(plain[:9]) + skippable + zstd.compress(plain[9:]) + skippable,
        skippable + zstd.compress(plain),
        lzma.compress(plain[:600]) + lzma.compress(plain[600:]),
    ):
        assert write(packed, tmp_path / "layer").diff_id == diff_id


def test_the_same_tar_makes_the_same_file_of_whole_mebibytes(tmp_path: Path) -> None:
    data = tar([file("a/b", b"x" * 3_000_000, xattrs={"user.a": "b"})])
    write(data, tmp_path / "one")
    write(gzip.compress(data), tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one").stat().st_size % ALIGNMENT_BYTES == 0


def test_an_empty_layer_is_an_empty_directory(tmp_path: Path) -> None:
    for data in (b"", bytes(1024), bytes(10240)):
        assert write(data, tmp_path / "layer").entries == 0
        listed = subprocess.run(["unsquashfs", "-l", tmp_path / "layer"], check=True, capture_output=True, text=True)
        assert listed.stdout.split() == ["squashfs-root"]


HOSTILE: dict[str, tuple[list[Member], str]] = {
    "dot-dot": ([file("../etc/passwd")], r"'\.\.'"),
    "dot-dot inside": ([file("a/../../etc/passwd")], r"'\.\.'"),
    "dot-dot harmless": ([file("a/../b")], r"'\.\.'"),
    "dot-dot at the end": ([directory("a/..")], r"'\.\.'"),
    "hard link to an absolute path": ([hard_link("x", "/etc/shadow")], "no file that comes before"),
    "hard link out": ([hard_link("x", "../../etc/shadow")], r"'\.\.'"),
    "hard link to nothing": ([hard_link("x", "y")], "no file that comes before"),
    "hard link to itself": ([hard_link("x", "x")], "no file that comes before"),
    "hard link to a directory": ([directory("d"), hard_link("x", "d")], "no file that comes before"),
    "hard link to a whiteout": ([file(".wh.y"), hard_link("x", "y")], "no file that comes before"),
    "hard link through a symbolic link": ([symlink("s", "/etc"), hard_link("x", "s/shadow")], "no file that comes"),
    "symbolic links in a circle": ([symlink("a", "b"), symlink("b", "/a"), file("a/x")], "loop of links"),
    "a symbolic link to itself": ([symlink("a", "a/a/a"), file("a/x")], "loop of links"),
    "a long way of symbolic links": (
        [symlink(f"{i}", f"{'./' * 1000}{i + 1}") for i in range(9)] + [file("0/x")],
        "loop of links",
    ),
    "a symbolic link to a name too long": ([symlink("s", "x" * 256), file("s/y")], "longer than 255"),
    "a symbolic link to a file as directory": ([file("f"), symlink("s", "f"), file("s/x")], "goes through f"),
    "a file as directory": ([file("f"), file("f/x")], "goes through f"),
    "a whiteout of the parent": ([file("d/.wh...")], "whiteout of nothing"),
    "a whiteout of nothing": ([file("d/.wh.")], "whiteout of nothing"),
    "a name too long": ([file("x" * 256)], "longer than 255"),
    "a path too long": ([file("x/" * 3000 + "y")], "4096"),
    "a link target too long": ([symlink("s", "x" * 5000)], "links to nothing"),
    "an empty link": ([symlink("s", "")], "links to nothing"),
    "a symbolic link as root": ([symlink(".", "/")], "root is a symbolic link"),
    "an impossible device": ([device("n", 5000, 1)], "device number"),
    "an unknown type": ([member("v", b"V")], "unknown type"),
    "an xattr too large": ([file("f", xattrs={"user.x": "x" * 70_000})], "xattr"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    members, why = HOSTILE[name]
    with pytest.raises(InvalidRequest, match=why):
        write(tar(members), tmp_path / "layer")


def test_a_decompression_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    limits = Limits(layer_bytes=2_000_000)
    plain = tar([file("zeros", bytes(50_000_000))])
    for pack in (gzip.compress, zstd.compress, bz2.compress):
        with pytest.raises(InvalidRequest, match="decompression bomb"):
            write(pack(plain), tmp_path / "layer", limits)


def test_a_sparse_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as f:
        f.truncate(1 << 40)
    command = ["tar", "--sparse", "--format=pax", "-C", tmp_path, "-c", "sparse"]
    archive = subprocess.run(command, check=True, capture_output=True).stdout
    with pytest.raises(InvalidRequest, match="decompression bomb"):
        write(archive, tmp_path / "layer")


def test_a_bomb_of_names_stops_at_the_limit(tmp_path: Path) -> None:
    limits = Limits(layer_metadata_bytes=100_000)
    with pytest.raises(InvalidRequest, match="need more than"):
        write(tar(file(f"{i}") for i in range(1000)), tmp_path / "layer", limits)


def header(**changes: bytes) -> bytes:
    """A header for a file of no bytes, with fields changed and the checksum right."""
    places = {
        "name": (0, 100),
        "mode": (100, 8),
        "uid": (108, 8),
        "size": (124, 12),
        "type": (156, 1),
        "link": (157, 100),
    }
    raw = bytearray(file("f")[0].tobuf(tarfile.USTAR_FORMAT))
    for name, value in changes.items():
        at, length = places[name]
        raw[at : at + length] = value.ljust(length, b"\0")
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(records: bytes) -> bytes:
    return header(type=b"x", size=b"%o" % len(records)) + records + bytes(-len(records) % 512)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"this is no tar archive" * 100, "no tar archive"),
        (b"\x7fELF" + bytes(2000), "no tar archive"),
        (header()[:-1], "no tar archive"),
        (header() + header()[:-1], "cut off"),
        (header(size=b"00000001000"), "cut off"),
        (header(size=b"0000000000x"), "number"),
        (header(size=b"-1"), "number"),
        (header(size=b"\xff" * 12), "cannot be"),
        (header(size=b"\x80" + b"\xff" * 11), "decompression bomb"),
        (header(uid=b"\xff" * 8), "cannot be"),
        (header(type=b"L", size=b"77777777777"), "extended header of"),
        (header(type=b"L", size=b"3") + b"abc".ljust(512, b"\0"), "no entry"),
        (header(type=b"L", size=b"3") + b"a", "cut off"),
        (header(type=b"L", size=b"3") + b"a\0b".ljust(512, b"\0") + header(), "NUL"),
        (header(type=b"L", size=b"3") + b"../".ljust(512, b"\0") + header(), r"'\.\.'"),
        (pax(b"11 path=x/y\n") + header(type=b"V"), "PAX header"),
        (pax(b"12 path=../x\n") + header(), "PAX header"),
        (pax(b"13 path=../x\n") + header(), r"'\.\.'"),
        (pax(b"9 size=-1\n") + header(), "PAX header"),
        (pax(b"99999 path=x\n") + header(), "PAX header"),
        (pax(b"0 path=x\n") + header(), "PAX header"),
        (pax(b"-5 path=x\n") + header(), "PAX header"),
        (pax(b"10 mtime=x\n") + header(), "PAX header"),
        (pax(b"29 LIBARCHIVE.xattr.user.a=*\n") + header(), "xattr"),
        (pax(b"11 mtime=1x\n") + header(), "PAX header"),
        (pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=9\n") + header(), "unknown format"),
        (pax(b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n") + header(), "PAX header"),
        (pax(b"22 GNU.sparse.map=0,5\n21 GNU.sparse.size=5\n") + header(), "does not fit"),
        (pax(b"26 GNU.sparse.map=5,1,0,1\n21 GNU.sparse.size=6\n") + header(), "overlaps"),
        (gzip.compress(header() + bytes(1024))[:-9], "cut off"),
        (gzip.compress(header() + bytes(1024)) + b"junk", "damaged"),
        (zstd.compress(header() + bytes(1024))[:-3], "cut off"),
        (lzma.compress(header() + bytes(1024))[:-9], "cut off"),
        (bz2.compress(header() + bytes(1024))[:-9], "cut off"),
        (gzip.compress(header())[:20] + b"\xff" * 20, "damaged|cut off"),
    ],
)
def test_a_damaged_archive_is_refused_with_its_reason(tmp_path: Path, data: bytes, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why):
        write(data, tmp_path / "layer")


PATHS = st.lists(st.sampled_from(["a", "b", "c", ".wh.a", ".wh..wh..opq", ".", "..", ""]), max_size=3).map("/".join)
MEMBERS = st.one_of(
    st.builds(file, PATHS, st.binary(max_size=700), mode=st.integers(0, 0o7777), uid=st.integers(0, 2**32 - 1)),
    st.builds(directory, PATHS),
    st.builds(symlink, PATHS, PATHS),
    st.builds(hard_link, PATHS, PATHS),
    st.builds(device, PATHS, st.integers(0, 300), st.integers(0, 300)),
)


@settings(max_examples=60)
@given(st.lists(MEMBERS, max_size=12))
def test_any_archive_is_refused_or_makes_a_squashfs_that_others_can_read(
    tmp_path_factory: pytest.TempPathFactory, members: list[Member]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.squashfs"
    try:
        write(tar(members), path)
    except InvalidRequest:
        return
    listed = subprocess.run(["unsquashfs", "-lls", path], check=True, capture_output=True, text=True)
    assert not listed.stderr


@settings(max_examples=300)
@given(st.data())
def test_a_mutated_archive_is_refused_or_read_and_never_breaks_the_reader(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    members = [
        directory("d"),
        file("d/f", b"x" * 600, xattrs={"user.a": "b"}),
        hard_link("h", "d/f"),
        symlink("s", "y" * 200),
    ]
    tar_format = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]))
    if tar_format == tarfile.USTAR_FORMAT:
        members.pop()
    raw = bytearray(tar(members, tar_format=tar_format))
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(0, 255)), max_size=4)):
        raw[at] = value
        start = at - at % 512
        if data.draw(st.booleans()):
            raw[start + 148 : start + 156] = b" " * 8
            raw[start + 148 : start + 156] = b"%06o\0 " % sum(raw[start : start + 512])
    path = tmp_path_factory.getbasetemp() / "mutated.squashfs"
    try:
        write(bytes(raw[: data.draw(st.integers(0, len(raw)))]), path)
    except InvalidRequest:
        return
    assert path.read_bytes()[:4] == MAGIC
