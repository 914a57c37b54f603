"""Which modules a VM loads, and in which order."""

import gzip
import lzma
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from backports import zstd
from harness.elf import kernel_module
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidRequest, Unavailable
from atoll.kernel.modules import ModuleTree, dependencies, read_module


def _tree(directory: Path, modules: dict[str, tuple[str, ...]], builtin: tuple[str, ...] = ()) -> ModuleTree:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "modules.builtin").write_text("".join(f"kernel/{name}.ko\n" for name in builtin))
    for name, depends in modules.items():
        (directory / f"{name}.ko").write_bytes(kernel_module(*depends))
    return ModuleTree.read(directory)


def _order(tree: ModuleTree, *required: str, optional: tuple[str, ...] = ()) -> list[str]:
    return [module.file_name for module in tree.load(required, optional)]


def test_a_module_comes_after_what_it_depends_on(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"virtio_pci": ("virtio", "virtio_ring"), "virtio": ("virtio_ring",), "virtio_ring": ()})
    assert _order(tree, "virtio_pci") == ["virtio_ring.ko", "virtio.ko", "virtio_pci.ko"]


def test_a_shared_dependency_is_loaded_once(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"virtio_net": ("virtio",), "virtio_blk": ("virtio",), "virtio": ()})
    assert _order(tree, "virtio_net", "virtio_blk") == ["virtio.ko", "virtio_net.ko", "virtio_blk.ko"]


def test_what_is_built_in_is_left_out(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"overlay": ("virtio",)}, builtin=("fs/ext4/ext4", "drivers/virtio/virtio"))
    assert _order(tree, "ext4", "overlay") == ["overlay.ko"]


def test_dashes_and_underscores_in_names_are_the_same(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"virtio-rng": ()}, builtin=("crypto/crc32c-generic",))
    assert _order(tree, "virtio_rng", "crc32c_generic") == ["virtio_rng.ko"]


def test_a_missing_module_is_named(tmp_path: Path) -> None:
    tree = _tree(tmp_path / "6.1.0-x", {"virtio_net": ("net_failover",)})
    with pytest.raises(Unavailable, match=r"kernel 6\.1\.0-x has no module overlay, neither"):
        tree.load(("overlay",), ())
    with pytest.raises(Unavailable, match=r"no module net_failover \(wanted by virtio_net\)"):
        tree.load(("virtio_net",), ())


def test_an_optional_module_may_be_missing(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"ext4": ()})
    assert _order(tree, "ext4", optional=("fuse",)) == ["ext4.ko"]


@given(st.data())
def test_any_order_of_dependencies_is_kept(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    names = [f"m{index}" for index in range(8)]
    graph = {
        name: tuple(data.draw(st.sets(st.sampled_from(names[:index])) if index else st.just(set())))
        for index, name in enumerate(names)
    }
    tree = _tree(tmp_path_factory.mktemp("modules"), graph)
    wanted = data.draw(st.permutations(names))
    order = [name.removesuffix(".ko") for name in _order(tree, *wanted)]
    assert sorted(order) == sorted(names)
    for name, depends in graph.items():
        assert all(order.index(other) < order.index(name) for other in depends)


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [(".ko", bytes), (".ko.xz", lzma.compress), (".ko.gz", gzip.compress), (".ko.zst", zstd.compress)],
)
def test_a_module_is_uncompressed(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / f"overlay{suffix}"
    path.write_bytes(compress(kernel_module()))
    (tmp_path / "modules.builtin").touch()
    (module,) = ModuleTree.read(tmp_path).load(("overlay",), ())
    assert (module.file_name, module.data) == ("overlay.ko", kernel_module())


@pytest.mark.parametrize("suffix", [".ko.xz", ".ko.gz", ".ko.zst"])
def test_a_damaged_module_is_named(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"overlay{suffix}"
    path.write_bytes(b"nonsense")
    with pytest.raises(InvalidRequest, match=f"overlay{suffix} cannot be read"):
        read_module(path)


@given(st.binary(max_size=200))
def test_what_is_no_module_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest, match="is not a kernel module"):
        dependencies(data, Path("x.ko"))


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8))
def test_a_damaged_header_is_refused_or_read(offset: int, garbage: bytes) -> None:
    module = bytearray(kernel_module("virtio"))
    module[offset : offset + len(garbage)] = garbage
    with suppress(InvalidRequest):
        dependencies(bytes(module), Path("x.ko"))


def test_a_directory_without_modules_builtin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"not a kernel's module directory: modules\.builtin cannot be read"):
        ModuleTree.read(tmp_path)


def test_what_is_loaded_on_demand_comes_last_without_what_the_boot_loads(tmp_path: Path) -> None:
    tree = _tree(tmp_path, {"overlay": (), "dm_verity": ("dm_mod", "overlay"), "dm_mod": ()})
    modules = tree.load(("overlay",), (), ("dm_verity", "absent"))
    assert [(module.file_name, module.on_demand) for module in modules] == [
        ("overlay.ko", False),
        ("dm_mod.ko", True),
        ("dm_verity.ko", True),
    ]
