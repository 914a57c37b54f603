"""Hash trees, held against veritysetup's, and their store."""

import subprocess
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidRequest
from atoll.image.disk import DiskLayer, compose_disk
from atoll.image.verity import BLOCK_BYTES, TreeStore, write_tree
from atoll.store.database import Database

MIB = 1 << 20


def made(directory: Path, data: bytes) -> tuple[bytes, bytes]:
    """Root and content of the tree of `data`."""
    (directory / "data").write_bytes(data)
    with FileIO(directory / "data") as opened, FileIO(directory / "tree", "w+") as tree:
        root = write_tree(opened, tree)
    return root, (directory / "tree").read_bytes()


def of_veritysetup(directory: Path) -> tuple[bytes, bytes]:
    """The same by veritysetup."""
    command = ["veritysetup", "format", "--no-superblock", "--salt", "-", "--hash", "sha256"]
    (directory / "theirs").touch()
    done = subprocess.run(
        [*command, directory / "data", directory / "theirs"], capture_output=True, text=True, check=True
    )
    (root,) = (line.split()[-1] for line in done.stdout.splitlines() if line.startswith("Root hash"))
    return bytes.fromhex(root), (directory / "theirs").read_bytes()


@pytest.mark.parametrize("blocks", [256, 128 * 128, 128 * 128 + 256])
def test_a_tree_is_the_one_that_veritysetup_makes(tmp_path: Path, blocks: int) -> None:
    data = b"".join(number.to_bytes(8, "little") * (BLOCK_BYTES // 8) for number in range(blocks))
    ours = made(tmp_path, data)
    assert ours == of_veritysetup(tmp_path)


@given(st.integers(0, 256 * BLOCK_BYTES - 1), st.integers(0, 7))
def test_every_bit_counts(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    directory = tmp_path_factory.mktemp("verity")
    data = bytearray(256 * BLOCK_BYTES)
    before, _ = made(directory, bytes(data))
    data[at] ^= 1 << bit
    assert made(directory, bytes(data))[0] != before


@pytest.fixture
def store(tmp_path: Path) -> TreeStore:
    return TreeStore(tmp_path / "verity", tmp_path, Database(tmp_path / "atoll.db"))


def layer(tmp_path: Path, content: bytes = b"coral") -> Path:
    path = tmp_path / "layer"
    path.write_bytes(content.ljust(MIB, b"\0"))
    return path


def test_a_tree_is_made_once_and_again_when_it_is_gone(store: TreeStore, tmp_path: Path) -> None:
    squashfs = layer(tmp_path)
    first = store.tree("sha256:1", squashfs)
    content, written = first.file.read_bytes(), first.file.stat().st_mtime_ns
    assert (store.tree("sha256:1", squashfs), first.file.stat().st_mtime_ns) == (first, written)
    first.file.unlink()
    assert (store.tree("sha256:1", squashfs), first.file.read_bytes()) == (first, content)


def test_a_root_that_is_known_is_not_replaced(store: TreeStore, tmp_path: Path) -> None:
    store.tree("sha256:1", layer(tmp_path)).file.unlink()
    changed = layer(tmp_path, b"kelp")
    with pytest.raises(InvalidRequest, match="was changed on disk"):
        store.tree("sha256:1", changed)
    assert list((tmp_path / "verity").iterdir()) == []


def test_a_layer_that_is_gone_takes_its_root_along(store: TreeStore, tmp_path: Path) -> None:
    kept, gone = (store.tree(f"sha256:{number}", layer(tmp_path)) for number in range(2))
    assert store.all_but({"sha256:0"}) == {gone.file}
    store.forget_all_but({"sha256:0"})
    gone.file.unlink()
    changed = layer(tmp_path, b"kelp")
    assert store.tree("sha256:1", changed).root != gone.root
    assert store.tree("sha256:0", changed) == kept


@pytest.mark.parametrize("at", [0, 4095, 4096, 3 * 4096 - 1])
def test_a_damaged_tree_is_made_again(store: TreeStore, tmp_path: Path, at: int) -> None:
    squashfs = layer(tmp_path)
    first = store.tree("sha256:1", squashfs)
    content = first.file.read_bytes()
    damaged = bytearray(content)
    damaged[at] ^= 1
    for found in (bytes(damaged), content[:-4096], b""):
        first.file.write_bytes(found)
        assert (store.tree("sha256:1", squashfs), first.file.read_bytes()) == (first, content)


@pytest.mark.parametrize("number", [1, 2, 127])
def test_trees_lie_behind_the_layers_and_qemu_finds_them_there(store: TreeStore, tmp_path: Path, number: int) -> None:
    squashfs = layer(tmp_path)
    layers = [DiskLayer(name, squashfs, store.tree(name, squashfs)) for name in map(str, range(number))]
    disk = compose_disk(layers, tmp_path / "disk", tmp_path)
    size = 3 * BLOCK_BYTES
    assert disk.extents == tuple((at * MIB, MIB) for at in range(number))
    assert [place[:2] for place in disk.trees] == [(number * MIB + at * size, size) for at in range(number)]
    text = disk.path.read_text()
    for fdset, path in disk.files.items():
        text = text.replace(f'"/dev/fdset/{fdset}"', f'"{path}"')
    (tmp_path / "by-path.vmdk").write_text(text)
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", tmp_path / "by-path.vmdk", tmp_path / "raw"]
    subprocess.run(command, check=True)
    trees = b"".join(made.tree.file.read_bytes() for made in layers if made.tree is not None)
    assert (tmp_path / "raw").read_bytes() == squashfs.read_bytes() * number + trees
