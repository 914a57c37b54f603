"""Which module files of a kernel a VM needs, and in which order they load.

A module names what it depends on in its `.modinfo` section. That is read here instead of `modules.dep`, which
depmod(8) writes when a package is *installed*: a kernel that was only unpacked has none. What is built into the
kernel stands in `modules.builtin`, which the kernel's own build makes and every package ships.
"""

import gzip
import lzma
import struct
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from atoll.errors import InvalidRequest, Unavailable
from atoll.kernel.initramfs import LoadedModule

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REQUIRED = (
    "virtio_pci",
    "virtio_console",
    "virtio_blk",
    "virtio_rng",
    "virtio_balloon",
    "virtio_mem",
    "virtio_net",
    "squashfs",
    "ext4",
    "overlay",
)
"""Without one of these a kernel cannot run a container."""

OPTIONAL = (
    "crc32c_generic",  # ext4 asks the crypto API for it by name; newer kernels have it as a library instead
    "fuse",  # for host directories alone: the agent says so when it is missing
)
"""Taken when the kernel has them."""

ON_DEMAND = (
    "sha256_ssse3",  # by the processor's own instructions; no quicker than the kernel's plain C where they are emulated
    "dm_verity",
)
"""Taken, too, but loaded when they are needed, or when a template is made: 100 ms and more, which a cold boot saves."""

_DECOMPRESSORS: Mapping[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".ko.gz": gzip.decompress,
    ".ko.xz": lzma.decompress,
    ".ko.zst": zstd.decompress,
}
_DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)


@dataclass(frozen=True)
class ModuleTree:
    """The modules of one kernel version: files by module name, and the names of what is built in."""

    version: str
    files: Mapping[str, Path]
    builtin: frozenset[str]

    @classmethod
    def read(cls, directory: Path) -> "ModuleTree":
        """The tree below `directory` (a `/lib/modules/<version>`); `InvalidRequest` when it is none."""
        try:
            listed = (directory / "modules.builtin").read_text()
        except OSError as error:
            raise InvalidRequest(
                f"{directory} is not a kernel's module directory: modules.builtin cannot be read ({error.strerror}); "
                "give the directory that is called like the kernel's version"
            ) from error
        files = {
            _name_of(path.name): path
            for path in sorted(directory.rglob("*.ko*"))
            if path.is_file() and _suffix_of(path.name) in _DECOMPRESSORS
        }
        builtin = frozenset(_name_of(Path(line).name) for line in listed.split())
        return cls(version=directory.name, files=files, builtin=builtin)

    def load(
        self,
        required: Iterable[str] = REQUIRED,
        optional: Iterable[str] = OPTIONAL,
        on_demand: Iterable[str] = ON_DEMAND,
    ) -> tuple[LoadedModule, ...]:
        """The modules to load, a module after its dependencies, without what is built in.

        Raises `Unavailable` naming the module that is neither a file nor built in.
        """
        loaded: dict[str, LoadedModule] = {}
        for name in required:
            self._visit(name, (), loaded)
        for name in optional:
            if name in self.files:
                self._visit(name, (), loaded)
        at_boot = tuple(loaded.values())
        for name in on_demand:
            if name in self.files:
                self._visit(name, (), loaded)
        later = tuple(loaded.values())[len(at_boot) :]
        return (*at_boot, *(replace(module, on_demand=True) for module in later))

    def _visit(self, name: str, dependents: tuple[str, ...], loaded: dict[str, LoadedModule]) -> None:
        if name in loaded or name in self.builtin or name in dependents:
            return
        path = self.files.get(name)
        if path is None:
            wanted = f" (wanted by {dependents[-1]})" if dependents else ""
            raise Unavailable(
                f"kernel {self.version} has no module {name}{wanted}, neither as a file nor built in: "
                "choose another kernel with 'atoll system kernel set'"
            )
        data = read_module(path)
        for dependency in dependencies(data, path):
            self._visit(dependency, (*dependents, name), loaded)
        loaded[name] = LoadedModule(file_name=f"{name}.ko", data=data)


def read_module(path: Path) -> bytes:
    """The uncompressed bytes of a module file; `InvalidRequest` when it is damaged."""
    try:
        return _DECOMPRESSORS[_suffix_of(path.name)](path.read_bytes())
    except _DAMAGED as error:
        raise InvalidRequest(f"module {path} cannot be read: {error}") from error


def dependencies(module: bytes, path: Path) -> tuple[str, ...]:
    """The names that an uncompressed module's `depends=` lists; `InvalidRequest` when it is no module."""
    try:
        info = _section(module, b".modinfo")
    except (struct.error, ValueError, IndexError) as error:
        raise InvalidRequest(f"{path} is not a kernel module: {error}") from error
    names: list[str] = []
    for entry in info.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == b"depends":
            names += [_normal(name) for name in value.decode("ascii", "replace").split(",") if name]
    return tuple(names)


_ELF_HEADER = struct.Struct(
    "<4sBB10x24xQ10xHHH"
)  # magic, class, byte order; section table: offset, entry size, count, names
_SECTION_HEADER = struct.Struct("<II16xQQ24x")  # name's offset, type, offset, size


def _section(module: bytes, wanted: bytes) -> bytes:
    magic, word, order, table, entry_size, count, names_index = _ELF_HEADER.unpack_from(module)
    if (magic, word, order) != (b"\x7fELF", 2, 1):
        raise ValueError("it is not a 64-bit little-endian ELF file")

    def sections() -> Iterator[tuple[int, bytes]]:
        for index in range(count):
            name, _, offset, length = _SECTION_HEADER.unpack(
                module[(start := table + index * entry_size) : start + _SECTION_HEADER.size]
            )
            yield name, module[offset : offset + length]

    every = list(sections())
    names = every[names_index][1]
    for name, content in every:
        if names[name : names.find(b"\0", name)] == wanted:
            return content
    raise ValueError(f"it has no section {wanted.decode()}")


def _suffix_of(file_name: str) -> str:
    return "." + file_name.partition(".")[2]


def _name_of(file_name: str) -> str:
    return _normal(file_name.partition(".")[0])


def _normal(name: str) -> str:
    """The kernel takes `-` and `_` in a module's name for the same."""
    return name.replace("-", "_")
