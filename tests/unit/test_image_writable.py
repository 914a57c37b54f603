import subprocess
from pathlib import Path

import pytest
from harness.disks import small_disk

from atoll.errors import InvalidRequest, OutOfSpace, Unavailable
from atoll.image.writable import make_writable_disk

MIB = 1 << 20


def make(tmp_path: Path, name: str, size_bytes: int) -> Path:
    cache = tmp_path / "cache"
    cache.mkdir(exist_ok=True)
    make_writable_disk(tmp_path / name, size_bytes, cache, tmp_path)
    return tmp_path / name


@pytest.mark.parametrize("size_bytes", [16 * MIB, 100 * MIB + 5, 10_240 * MIB, 1 << 40])
def test_a_writable_disk_is_a_sound_ext4_that_costs_next_to_nothing(tmp_path: Path, size_bytes: int) -> None:
    disk = make(tmp_path, "disk", size_bytes)
    assert disk.stat().st_size == size_bytes // 4096 * 4096
    assert disk.stat().st_blocks * 512 < 2 * MIB + size_bytes // 50_000
    assert disk.stat().st_mode & 0o777 == 0o600
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
    described = subprocess.run(["dumpe2fs", "-h", disk], check=True, capture_output=True, text=True).stdout
    assert "has_journal" in described
    assert "Reserved block count:     0" in described


def test_a_size_is_formatted_once_and_its_disks_are_apart(tmp_path: Path) -> None:
    one = make(tmp_path, "one", 16 * MIB)
    (formatted,) = (tmp_path / "cache").iterdir()
    made = formatted.stat().st_mtime_ns
    before = formatted.read_bytes()
    one.write_bytes(b"written by a container")
    two = make(tmp_path, "two", 16 * MIB)
    assert formatted.stat().st_mtime_ns == made
    assert two.read_bytes() == before


@pytest.mark.parametrize("size_bytes", [0, -1, 16 * MIB - 1, 1 << 60])
def test_an_impossible_size_is_refused_and_leaves_nothing(tmp_path: Path, size_bytes: int) -> None:
    with pytest.raises(InvalidRequest, match="between 16 MiB and 16 TiB"):
        make(tmp_path, "disk", size_bytes)
    assert [path.name for path in tmp_path.rglob("*")] == ["cache"]


def test_a_disk_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "disk").write_text("precious")
    with pytest.raises(FileExistsError):
        make(tmp_path, "disk", 16 * MIB)
    assert (tmp_path / "disk").read_text() == "precious"


def test_without_mke2fs_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(Unavailable, match="e2fsprogs"):
        make(tmp_path, "disk", 16 * MIB)
    assert [path.name for path in tmp_path.rglob("*")] == ["cache"]


@pytest.mark.parametrize("kib", [40, 72])
def test_a_full_disk_is_an_error_of_its_own_and_leaves_nothing(tmp_path: Path, kib: int) -> None:
    with small_disk(tmp_path, kib) as disk:
        with pytest.raises(OutOfSpace, match="no space left"):
            make(disk, "disk", 64 * MIB)
        assert not [path for path in disk.iterdir() if path.name != "cache"]
