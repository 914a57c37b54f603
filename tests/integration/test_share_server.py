"""The server of host directories and a guest whose kernel lies: whatever it sends, it reaches nothing else."""

import ctypes
import errno
import os
import random
import shutil
import stat
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from harness import fuse_client as fuse
from harness.fuse_client import FuseClient, Refused
from harness.fuse_client import fuse_client as serving

SECRET = b"nobody in a guest reads this"
EXCHANGE = 2
RACES = 3000
LIES = 3000
OTHER_USER = 65534


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that is not exported, with a secret."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "canary").write_bytes(SECRET)
    return directory


@pytest.fixture
def inside(tmp_path: Path) -> Path:
    """A directory that is."""
    directory = tmp_path / "inside"
    directory.mkdir()
    (directory / "canary").write_bytes(b"inside")
    return directory


@pytest.fixture
def guest(inside: Path, outside: Path) -> Iterator[FuseClient]:
    """A guest that may write to what is inside; outside all is as it was when it has gone."""
    with serving(("rw", inside)) as client:
        yield client
    assert os.listdir(outside) == ["canary"]  # noqa: PTH208  # names are what matters
    assert (outside / "canary").read_bytes() == SECRET


@pytest.fixture
def top(guest: FuseClient) -> int:
    """The exported directory, as the guest names it."""
    return guest.lookup(fuse.ROOT, b"0").node


def refused(*errors: int) -> "pytest.RaisesExc[Refused]":
    return pytest.raises(Refused, check=lambda error: error.errno in errors)


def test_a_guest_sees_the_exports_by_number_and_nothing_beside_them(guest: FuseClient) -> None:
    assert guest.names(fuse.ROOT) == ["0"]
    for name in (b"1", b"proc", b"exports", b"etc"):
        with refused(errno.ENOENT):
            guest.lookup(fuse.ROOT, name)
    with refused(errno.EROFS):
        guest.create(fuse.ROOT, b"new")


@pytest.mark.parametrize("name", [b"..", b".", b"../outside", b"../outside/canary", b"/etc/passwd", b"./canary", b""])
def test_no_name_leads_out_of_a_directory(guest: FuseClient, top: int, name: bytes) -> None:
    attempts: list[Callable[[], object]] = [
        lambda: guest.lookup(top, name),
        lambda: guest.lookup(fuse.ROOT, name),
        lambda: guest.create(top, name),
        lambda: guest.ask(fuse.SYMLINK, top, name + b"\0target\0"),
        lambda: guest.ask(fuse.MKDIR, top, struct.pack("<II", 0o755, 0) + name + b"\0"),
        lambda: guest.ask(fuse.MKNOD, top, struct.pack("<IIII", stat.S_IFIFO, 0, 0, 0) + name + b"\0"),
        lambda: guest.ask(fuse.UNLINK, top, name + b"\0"),
        lambda: guest.ask(fuse.LINK, top, struct.pack("<Q", guest.lookup(top, b"canary").node) + name + b"\0"),
        lambda: guest.ask(fuse.RENAME, top, struct.pack("<Q", top) + name + b"\0moved\0"),
        lambda: guest.ask(fuse.RENAME, top, struct.pack("<Q", top) + b"canary\0" + name + b"\0"),
    ]
    for attempt in attempts:
        with pytest.raises(Refused):
            attempt()
    assert guest.names(top) == ["canary"]


def test_a_link_out_of_the_export_is_the_guests_to_follow(guest: FuseClient, top: int, outside: Path) -> None:
    guest.ask(fuse.SYMLINK, top, b"link\0" + os.fsencode(outside) + b"\0")
    link = guest.lookup(top, b"link")
    assert link.is_link
    assert guest.ask(fuse.READLINK, link.node) == os.fsencode(outside)
    with refused(errno.ENOTDIR):
        guest.lookup(link.node, b"canary")
    with refused(errno.EBADF):
        guest.open(link.node)
    with refused(errno.ENOTDIR):
        guest.create(link.node, b"new")


def test_a_directory_that_is_moved_out_has_no_parent(guest: FuseClient, top: int, inside: Path, tmp_path: Path) -> None:
    (inside / "sub").mkdir()
    sub = guest.lookup(top, b"sub").node
    (inside / "sub").rename(tmp_path / "moved")
    for name in (b"..", b"../outside"):
        with pytest.raises(Refused):
            guest.lookup(sub, name)


def test_a_race_of_renames_is_never_won(guest: FuseClient, top: int, inside: Path, outside: Path) -> None:
    """A directory takes turns with a link to another, while the guest opens files and makes some below that name."""
    (inside / "swap").mkdir()
    (inside / "swap" / "canary").write_bytes(b"inside")
    (inside / "link").symlink_to(outside)
    is_over = threading.Event()
    libc = ctypes.CDLL(None, use_errno=True)
    places = os.fsencode(inside / "swap"), os.fsencode(inside / "link")

    def swap() -> None:
        while not is_over.is_set():
            libc.renameat2(-100, places[0], -100, places[1], EXCHANGE)

    found: set[bytes] = set()
    links = 0
    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(RACES):
            entry = guest.lookup(top, b"swap")
            links += entry.is_link
            with suppress(Refused):
                canary = guest.lookup(entry.node, b"canary").node
                found.add(guest.read(canary, guest.open(canary)))
            with suppress(Refused):
                guest.create(entry.node, b"made")
    finally:
        is_over.set()
        swapping.join()
    assert found == {b"inside"}
    assert 0 < links < RACES


def test_what_is_read_only_is_so_whatever_the_guest_thinks(inside: Path) -> None:
    with serving(("ro", inside)) as guest:
        top = guest.lookup(fuse.ROOT, b"0").node
        canary = guest.lookup(top, b"canary").node
        attempts: list[Callable[[], object]] = [
            lambda: guest.open(canary, os.O_RDWR),
            lambda: guest.open(canary, os.O_RDONLY | os.O_TRUNC),
            lambda: guest.create(top, b"new"),
            lambda: guest.ask(fuse.UNLINK, top, b"canary\0"),
            lambda: guest.ask(fuse.RENAME, top, struct.pack("<Q", top) + b"canary\0moved\0"),
            lambda: guest.ask(fuse.LINK, top, struct.pack("<Q", canary) + b"second\0"),
            lambda: guest.ask(
                fuse.SETATTR, canary, struct.pack("<II", 1, 0) + bytes(60) + struct.pack("<I", 0o777) + bytes(16)
            ),
            lambda: guest.ask(fuse.SETXATTR, canary, struct.pack("<II", 1, 0) + b"user.a\0b"),
        ]
        for attempt in attempts:
            with refused(errno.EROFS):
                attempt()
        assert guest.read(canary, guest.open(canary)) == b"inside"
    assert [(path.name, path.read_bytes(), path.stat().st_mode & 0o777) for path in inside.iterdir()] == [
        ("canary", b"inside", 0o644)
    ]


def test_no_device_is_made_and_none_is_opened(guest: FuseClient, top: int, inside: Path) -> None:
    with refused(errno.EPERM):
        guest.ask(fuse.MKNOD, top, struct.pack("<IIII", stat.S_IFCHR | 0o666, os.makedev(1, 5), 0, 0) + b"zero\0")
    os.mknod(inside / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with refused(errno.EBADF):
        guest.open(guest.lookup(top, b"zero").node)


def test_requests_that_make_no_sense_are_refused(guest: FuseClient, top: int, inside: Path, outside: Path) -> None:
    """Any opcode, node, handle and body: well-formed as far as their length goes."""
    chance = random.Random(20260)
    handle = guest.open(guest.lookup(top, b"canary").node)
    numbers = [0, 1, 2, top, handle, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF]
    names = [b"", b"..\0", b"canary\0..\0", b"../outside/canary\0", b"a\0b\0", b"\0", b"x" * 300]
    for _ in range(LIES):
        parts = [struct.pack("<Q", chance.choice(numbers)) for _ in range(chance.randrange(12))]
        body = b"".join(parts)[: chance.randrange(97)] + chance.choice(names)
        guest.send(chance.randrange(52), chance.choice([0, 1, top, 77]), body)
        assert guest.lookup(fuse.ROOT, b"0").node  # not every lie has a reply
    assert sorted(path.name for path in inside.parent.iterdir()) == ["inside", "outside"]


@pytest.mark.parametrize("length", [0, 39, 1 << 20, 0xFFFF_FFFF])
def test_a_stream_that_is_none_ends_the_server(inside: Path, length: int) -> None:
    with serving(("rw", inside)) as guest:
        guest.send_bytes(struct.pack("<I", length) + bytes(36))
        assert guest.process.wait(30) == 1


def test_the_server_has_no_rights_and_no_files_that_it_does_not_need(guest: FuseClient, inside: Path) -> None:
    process = Path(f"/proc/{guest.process.pid}")
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    needed = sum(1 << capability for capability in (0, 1, 2, 3, 4, 6, 7, 31))
    assert {int(status[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")} == {needed}
    assert {int(status[name], 16) for name in ("CapInh", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    for thread in (process / "task").iterdir():
        assert "Seccomp:\t2" in (thread / "status").read_text()
    mounts = [line.split()[4] for line in (process / "mountinfo").read_text().splitlines()]
    assert sorted(mounts) == ["/", "/exports/0", "/proc/self/fd"]
    opened = {os.readlink(path) for path in (process / "fd").iterdir() if int(path.name) > 2}  # noqa: PTH115  # no paths
    assert {name for name in opened if name.startswith("/")} == {
        "/exports", "/memfd:reply (deleted)", "/proc/self/fd", "/proc/self/mountinfo",
    }  # fmt: skip
    for namespace in ("mnt", "net", "ipc"):
        assert (process / "ns" / namespace).readlink() != Path(f"/proc/self/ns/{namespace}").readlink()


def test_files_of_the_guests_users_are_theirs_on_the_host(guest: FuseClient, top: int, inside: Path) -> None:
    inside.chmod(0o700)
    guest.user = 4321  # it has been let in by the guest's kernel
    guest.create(top, b"made")
    assert (inside / "made").stat().st_uid == 4321


def test_without_root_everything_is_done_as_the_one_user_there_is() -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        program = Path(shutil.copy2(fuse.PROGRAM, directory))
        shown = directory / "shown"
        shown.mkdir()
        os.chown(shown, OTHER_USER, OTHER_USER)
        with serving(("rw", shown), program=program, user=OTHER_USER) as guest:
            top = guest.lookup(fuse.ROOT, b"0").node
            guest.user = 4321
            guest.create(top, b"made")
        assert (shown / "made").stat().st_uid == OTHER_USER
