"""What `cp` does on the host's side: where a copy goes, and that a hostile archive goes nowhere else."""

import io
import os
import stat
import tarfile
from pathlib import Path

import pytest
from harness.archives import Member, device, directory, file, hard_link, member, symlink, tar

from atoll.cli.copying.pack import packed
from atoll.cli.copying.places import Place, Target, parse_place, target
from atoll.cli.copying.unpack import Incoming, Unpacker
from atoll.cli.errors import Failure


@pytest.mark.parametrize(
    ("argument", "place"),
    [
        ("c:/path", Place("c", "/path")),
        ("c:rel:with", Place("c", "rel:with")),
        ("/host:path", Place("", "/host:path")),
        ("./a:b", Place("", "./a:b")),
        ("plain", Place("", "plain")),
        ("-", Place("", "-")),
    ],
)
def test_an_argument_names_a_container_or_the_host(argument: str, place: Place) -> None:
    assert parse_place(argument) == place


@pytest.mark.parametrize(
    ("source", "is_directory", "to", "kind", "goes"),
    [
        ("/s/d", True, "/to", "directory", Target("/to", "d")),
        ("/s/d/.", True, "/to", "directory", Target("/to", "")),
        ("/s/d", True, "/to/new", "", Target("/to", "new")),
        ("/s/d/.", True, "/to/new/", "", Target("/to", "new")),
        ("/s/f", False, "/to", "directory", Target("/to", "f")),
        ("/s/f", False, "/to/g", "file", Target("/to", "g")),
        ("/s/f", False, "/to/new", "", Target("/to", "new")),
        ("/s/f", False, "new", "", Target(".", "new")),
        ("/s/d", True, "/to/g", "file", "cannot copy directory"),
        ("/s/f", False, "/to/new/", "", "no such directory"),
    ],
)
def test_a_copy_goes_where_docker_puts_it(
    source: str, is_directory: bool, to: str, kind: str, goes: Target | str
) -> None:
    def found() -> Target:
        name = "d" if is_directory else "f"
        return target(
            source, name=name, is_directory=is_directory, to=to, exists=bool(kind), to_directory=kind == "directory"
        )

    if isinstance(goes, Target):
        assert found() == goes
    else:
        with pytest.raises(Failure, match=goes):
            found()


def unpack(into: Path, members: list[Member], *, name: str = "x", is_exact: bool = False) -> list[str]:
    """Extract `members`, whose top is `x`, as `name`; the warnings."""
    warnings: list[str] = []
    unpacker = Unpacker("x", Target(os.fspath(into), name), is_exact=is_exact, warn=warnings.append)
    unpacker.extract(Incoming(iter([tar(members)])))
    return warnings


def test_what_was_packed_is_unpacked_the_same(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_bytes(os.urandom(100_000))
    (source / "other").hardlink_to(source / "file")
    (source / "sub" / "link").symlink_to("../file")
    (source / ("n" * 200)).write_text("long")
    (source / "file").chmod(0o600)
    (tmp_path / "to").mkdir()
    unpacker = Unpacker("s", Target(os.fspath(tmp_path / "to"), "t"), is_exact=False, warn=pytest.fail)
    unpacker.extract(Incoming(packed(os.fspath(source), "s")))
    copy = tmp_path / "to" / "t"
    assert (copy / "file").read_bytes() == (source / "file").read_bytes()
    assert (copy / "file").samefile(copy / "other")
    assert stat.S_IMODE((copy / "file").stat().st_mode) == 0o600
    assert (copy / "sub/link").readlink() == Path("../file")
    assert (copy / ("n" * 200)).read_text() == "long"


def test_a_content_alone_has_no_top(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with tarfile.open(fileobj=io.BytesIO(b"".join(packed(f"{tmp_path}/.", "")))) as archive:
        assert archive.getnames() == ["file"]


@pytest.mark.parametrize(
    ("members", "complaint"),
    [
        ([file("../x/f")], "leads out of the destination"),
        ([file("x/../../f")], "leads out of the destination"),
        ([file("y")], "is not what was asked for"),
        ([file("/etc/f")], "is not what was asked for"),
        ([directory("x"), symlink("x/out", "/tmp"), file("x/out/f")], "which is no directory"),
        ([directory("x"), symlink("x/out", ".."), file("x/out/f")], "which is no directory"),
        ([directory("x"), hard_link("x/h", "x/here")], "links to what is not in it"),
        ([directory("x"), symlink("x/s", "/etc"), hard_link("x/h", "x/s/passwd")], "links to what is not in it"),
    ],
)
def test_an_archive_that_leads_out_is_refused(tmp_path: Path, members: list[Member], complaint: str) -> None:
    (tmp_path / "to").mkdir()
    with pytest.raises(Failure, match=complaint):
        unpack(tmp_path / "to", members)
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


def test_a_file_is_not_written_through_a_link_that_is_there(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("safe")
    (tmp_path / "to").mkdir()
    unpack(tmp_path / "to", [directory("x"), symlink("x/f", f"{tmp_path}/victim"), file("x/f", b"evil")])
    assert (tmp_path / "victim").read_text() == "safe"
    assert (tmp_path / "to/x/f").read_text() == "evil"


def test_a_link_that_was_there_before_is_not_gone_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "to").mkdir()
    (tmp_path / "to/x").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Failure, match="no directory"):
        unpack(tmp_path / "to", [file("x/f", b"evil")])
    assert not any((tmp_path / "elsewhere").iterdir())


def test_devices_setuid_and_owners_come_when_asked_for_only(tmp_path: Path) -> None:
    members = [file("x/suid", b"x", mode=0o4755, uid=7, gid=8), device("x/null", 1, 3), member("x/p", tarfile.FIFOTYPE)]
    warnings = unpack(tmp_path, members, name="plain")
    status = (tmp_path / "plain/suid").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o755, os.getuid())
    assert (tmp_path / "plain/p").is_fifo()
    assert not (tmp_path / "plain/null").exists()
    assert warnings == ["skipped x/null: a device is copied with --archive only"]
    if os.getuid() == 0:
        assert unpack(tmp_path, members, name="exact", is_exact=True) == []
        status = (tmp_path / "exact/suid").stat()
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o4755, 7, 8)
        assert (tmp_path / "exact/null").is_char_device()


def test_what_is_a_directory_stays_one(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir(mode=0o700)
    with pytest.raises(Failure, match='cannot overwrite directory "x" with non-directory'):
        unpack(tmp_path, [file("x")])
    unpack(tmp_path, [directory("x", mode=0o777), file("x/f", b"new")])
    assert (tmp_path / "x/f").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o700  # not the container's to change
    with pytest.raises(Failure, match="cannot overwrite non-directory"):
        unpack(tmp_path, [directory("x"), directory("x/f")])


def test_an_archive_that_is_cut_off_is_an_error(tmp_path: Path) -> None:
    data = tar([directory("x"), file("x/f", bytes(100_000))])
    unpacker = Unpacker("x", Target(os.fspath(tmp_path), "x"), is_exact=False, warn=pytest.fail)
    with pytest.raises(Failure, match="damaged"):
        unpacker.extract(Incoming(iter([data[:50_000]])))
