"""The layers of an image as Linux sees them: mounted by the host's kernel and overlaid, as in a guest."""

import os
import random
import stat
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness.archives import Member, directory, file, hard_link, symlink, tar

from atoll.image import ContentStore
from atoll.store.database import Database

Mount = Callable[..., Path]


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Mount]:
    """Mounts layers, bottom first, over one another, with a writable one on top."""
    with ExitStack() as stack:

        def mount(*arguments: str | Path, at: str) -> None:
            (tmp_path / at).mkdir()
            subprocess.run(["mount", *arguments, at], cwd=tmp_path, check=True)
            stack.callback(subprocess.run, ["umount", tmp_path / at], check=True)

        def overlay(*layers: Path) -> Path:
            for number, path in enumerate(layers):
                mount("-t", "squashfs", "-o", "loop,ro", path, at=str(number))
            mount("-t", "tmpfs", "tmpfs", at="w")
            (tmp_path / "w/upper").mkdir()
            (tmp_path / "w/work").mkdir()
            # Relative: all options of a mount share one page of 4096 bytes.
            lower = ":".join(str(number) for number in reversed(range(len(layers))))
            mount("-t", "overlay", "-o", f"lowerdir={lower},upperdir=w/upper,workdir=w/work", "overlay", at="merged")
            return tmp_path / "merged"

        yield overlay


async def import_layers(root: Path, *layers: list[Member]) -> list[Path]:
    async def chunks(data: bytes) -> AsyncIterator[bytes]:
        yield data

    store = ContentStore(root / "content", Database(root / "atoll.db"))
    images = [await store.import_(chunks(tar(members)), None, []) for members in layers]
    return [image.layers[0].squashfs for image in images]


async def test_whiteouts_and_opaque_directories_hide_what_is_below(tmp_path: Path, mounted: Mount) -> None:
    bottom = [
        directory("gone"),
        file("gone/x"),
        file("etc/old", b"1"),
        file("etc/kept", b"2"),
        directory("opaque", mode=0o700),
        file("opaque/below"),
        file("replaced", b"file"),
        directory("became-file"),
        file("became-file/x"),
        symlink("link", "etc"),
    ]
    middle = [
        file(".wh.gone"),
        file("etc/.wh.old"),
        file("opaque/.wh..wh..opq"),
        file("opaque/above"),
        file("became-file", b"now a file"),
        file(".wh.link"),
        directory("link"),
        file("link/new"),
    ]
    top = [directory("gone"), file("gone/y"), directory("replaced"), file("replaced/z")]
    merged = mounted(*await import_layers(tmp_path, bottom, middle, top))
    found = sorted(str(path.relative_to(merged)) for path in merged.rglob("*"))
    assert found == [
        "became-file",
        "etc",
        "etc/kept",
        "gone",
        "gone/y",
        "link",
        "link/new",
        "opaque",
        "opaque/above",
        "replaced",
        "replaced/z",
    ]
    (merged / "etc/kept").write_text("copied up")
    (merged / "etc/old").write_text("new")
    assert (merged / "etc/kept").read_text() == "copied up"


async def test_attributes_survive_the_mount_and_a_copy_up(tmp_path: Path, mounted: Mount) -> None:
    text = "\x01\x00\x00\x02\x00\x20" + "\x00" * 14
    layer = [
        file("ping", b"ping", mode=0o755, xattrs={"security.capability": text, "user.reef": "coral"}),
        file("suid", mode=0o6755, uid=100_000, gid=200_000),
        directory("sticky", mode=0o1777),
        hard_link("pong", "ping"),
    ]
    merged = mounted(*await import_layers(tmp_path, layer))
    assert os.getxattr(merged / "ping", "security.capability") == text.encode()
    assert (merged / "suid").stat().st_mode == stat.S_IFREG | 0o6755
    assert (merged / "suid").stat().st_uid == 100_000
    assert (merged / "sticky").stat().st_mode & 0o7777 == 0o1777
    assert (merged / "pong").stat().st_ino == (merged / "ping").stat().st_ino
    before = (merged / "suid").stat().st_ino
    os.utime(merged / "suid", (0, 0))
    assert (merged / "suid").stat().st_ino == before
    (merged / "ping").chmod(0o700)
    assert os.getxattr(merged / "ping", "user.reef") == b"coral"


async def test_the_kernel_reads_every_byte_and_finds_every_name(tmp_path: Path, mounted: Mount) -> None:
    random_bytes = random.Random(11).randbytes
    members = [file(f"f{size}", random_bytes(size)) for size in (1, 4095, 4096, 131_072, 131_073, 1_000_001)]
    members.append(file("holes", bytes(400_000) + b"x" + bytes(400_000)))
    members += [file(f"many/{'n' * (number % 200)}{number}", b"%d" % number) for number in range(4000)]
    merged = mounted(*await import_layers(tmp_path, members))
    assert len(list((merged / "many").iterdir())) == 4000
    for info, data in members:
        assert (merged / info.name).read_bytes() == data, info.name
    assert not (merged / "many" / "nothing").exists()


async def test_sixty_layers_lie_over_one_another(tmp_path: Path, mounted: Mount) -> None:
    layers = [[file("top", b"%d" % number), file(f"own/{number}")] for number in range(60)]
    merged = mounted(*await import_layers(tmp_path, *layers))
    assert (merged / "top").read_bytes() == b"59"
    assert len(list((merged / "own").iterdir())) == 60
