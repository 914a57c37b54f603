"""Layers as one disk: QEMU reads each where the extents say that it is."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from atoll.errors import InvalidRequest, Unsupported
from atoll.image.disk import FIRST_LAYER_FDSET, ComposedDisk, DiskLayer, compose_disk

MIB = 1 << 20


def layers(tmp_path: Path, sizes_mib: Sequence[int]) -> list[DiskLayer]:
    made = []
    for number, size in enumerate(sizes_mib):
        path = tmp_path / f"layer{number}"
        path.write_bytes(f"layer {number}".encode().ljust(size * MIB, b"\0"))
        made.append(DiskLayer(f"sha256:{number:064x}", path))
    return made


def by_path(disk: ComposedDisk) -> Path:
    """The disk with paths in place of the descriptors that QEMU is handed."""
    if disk.format == "raw":
        return disk.path
    text = disk.path.read_text()
    for number, path in disk.files.items():
        text = text.replace(f'"/dev/fdset/{number}"', f'"{path}"')
    assert "/dev/fdset" not in text
    copy = disk.path.with_name("by-path.vmdk")
    copy.write_text(text)
    return copy


@pytest.mark.parametrize("sizes_mib", [[1], [3, 1, 2], [1] * 127])
def test_qemu_reads_every_layer_where_it_is_said_to_be(tmp_path: Path, sizes_mib: list[int]) -> None:
    disk = compose_disk(layers(tmp_path, sizes_mib), tmp_path / "disk", tmp_path)
    image = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", disk.format, "-O", "raw", by_path(disk), image], check=True)
    assert image.stat().st_size == sum(sizes_mib) * MIB
    with image.open("rb") as opened:
        for number, ((offset, size), size_mib) in enumerate(zip(disk.extents, sizes_mib, strict=True)):
            opened.seek(offset)
            assert opened.read(20).rstrip(b"\0") == f"layer {number}".encode()
            assert size == size_mib * MIB


def test_one_layer_is_a_disk_as_it_is(tmp_path: Path) -> None:
    (layer,) = layers(tmp_path, [2])
    disk = compose_disk([layer], tmp_path / "disk", tmp_path)
    assert (disk.path, disk.format, disk.files) == (layer.squashfs, "raw", {})
    assert not (tmp_path / "disk").exists()


def test_the_files_are_named_by_layer_from_the_bottom(tmp_path: Path) -> None:
    made = layers(tmp_path, [1, 2])
    disk = compose_disk(made, tmp_path / "disk", tmp_path)
    assert disk.files == {FIRST_LAYER_FDSET + number: layer.squashfs for number, layer in enumerate(made)}


def test_a_disk_is_made_once_and_the_same_each_time(tmp_path: Path) -> None:
    made = layers(tmp_path, [1, 2])
    first = compose_disk(made, tmp_path / "disk", tmp_path)
    written = first.path.stat().st_mtime_ns
    assert compose_disk(made, tmp_path / "disk", tmp_path) == first
    assert first.path.stat().st_mtime_ns == written
    assert compose_disk(made, tmp_path / "again", tmp_path).path.read_bytes() == first.path.read_bytes()


def test_what_cannot_be_composed_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no layers"):
        compose_disk([], tmp_path / "disk", tmp_path)
    with pytest.raises(Unsupported, match="128 layers"):
        compose_disk(layers(tmp_path, [1] * 128), tmp_path / "disk", tmp_path)
    torn = layers(tmp_path, [1, 1])
    torn[0].squashfs.write_bytes(b"x" * 4096)
    with pytest.raises(InvalidRequest, match="damaged"):
        compose_disk(torn, tmp_path / "disk", tmp_path)
    assert not (tmp_path / "disk").exists()
