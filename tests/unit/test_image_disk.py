import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
    """The descriptor with paths in place of the descriptors that QEMU is handed."""
    text = disk.descriptor.read_text()
    for number, path in disk.files.items():
        text = text.replace(f'"/dev/fdset/{number}"', f'"{path}"')
    assert "/dev/fdset" not in text
    copy = disk.descriptor.with_name("by-path.vmdk")
    copy.write_text(text)
    return copy


def raw(disk: ComposedDisk, tmp_path: Path) -> Path:
    """The disk as QEMU reads it."""
    out = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", by_path(disk), out], check=True)
    return out


@pytest.mark.parametrize("sizes_mib", [[1], [3, 1, 2], [1] * 127])
def test_qemu_sees_every_layer_as_a_partition_of_a_valid_disk(tmp_path: Path, sizes_mib: list[int]) -> None:
    disk = compose_disk(layers(tmp_path, sizes_mib), tmp_path / "disk", tmp_path)
    image = raw(disk, tmp_path)
    verdict = subprocess.run(["sfdisk", "--verify", image], check=True, capture_output=True, text=True)
    assert "No errors detected" in verdict.stdout
    dump = subprocess.run(["sfdisk", "--dump", image], check=True, capture_output=True, text=True).stdout
    rows = [line.split(":", 1)[1] for line in dump.splitlines() if "start=" in line]
    assert len(rows) == len(sizes_mib)
    with image.open("rb") as opened:
        for number, (row, size) in enumerate(zip(rows, sizes_mib, strict=True)):
            fields = dict(part.strip().split("=", 1) for part in row.split(",") if "=" in part)
            opened.seek(int(fields["start"]) * 512)
            assert opened.read(20).rstrip(b"\0") == f"layer {number}".encode()
            assert int(fields["size"]) * 512 == size * MIB
            assert fields["name"] == f'"layer {number}"'


def test_the_files_are_named_by_layer_from_the_bottom(tmp_path: Path) -> None:
    made = layers(tmp_path, [1, 2])
    disk = compose_disk(made, tmp_path / "disk", tmp_path)
    assert [disk.files[FIRST_LAYER_FDSET + number] for number in range(2)] == [layer.squashfs for layer in made]
    assert set(disk.files.values()) - {layer.squashfs for layer in made} <= set((tmp_path / "disk").iterdir())


def test_a_disk_is_made_once_and_the_same_each_time(tmp_path: Path) -> None:
    made = layers(tmp_path, [1, 2])
    first = compose_disk(made, tmp_path / "disk", tmp_path)
    written = first.descriptor.stat().st_mtime_ns
    assert compose_disk(made, tmp_path / "disk", tmp_path) == first
    assert first.descriptor.stat().st_mtime_ns == written
    again = compose_disk(made, tmp_path / "again", tmp_path)
    for number in (97, 98):
        assert again.files[number].read_bytes() == first.files[number].read_bytes()


def test_what_cannot_be_composed_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no layers"):
        compose_disk([], tmp_path / "disk", tmp_path)
    with pytest.raises(Unsupported, match="128 layers"):
        compose_disk(layers(tmp_path, [1] * 128), tmp_path / "disk", tmp_path)
    torn = layers(tmp_path, [1])
    torn[0].squashfs.write_bytes(b"x" * 4096)
    with pytest.raises(InvalidRequest, match="damaged"):
        compose_disk(torn, tmp_path / "disk", tmp_path)
    assert not (tmp_path / "disk").exists()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=127))
def test_a_table_of_any_layers_is_valid(tmp_path_factory: pytest.TempPathFactory, sizes_mib: list[int]) -> None:
    directory = tmp_path_factory.mktemp("gpt")
    made = []
    for number, size in enumerate(sizes_mib):
        path = directory / str(number)
        with path.open("wb") as file:
            file.truncate(size * MIB)
        made.append(DiskLayer(f"sha256:{number:064x}", path))
    disk = compose_disk(made, directory / "disk", directory)
    whole = directory / "whole"
    with whole.open("wb") as file:
        file.write(disk.files[98].read_bytes())
        file.seek(sum(sizes_mib) * MIB, 1)
        file.write(disk.files[97].read_bytes())
    verdict = subprocess.run(["sfdisk", "--verify", whole], check=True, capture_output=True, text=True)
    assert "No errors detected" in verdict.stdout
