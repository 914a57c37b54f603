"""The kernels of one engine, and which of them boots the next VM.

    <root>/<id>/kernel.json    release, source, digest, the modules' names in load order
    <root>/<id>/image          what QEMU boots
    <root>/<id>/modules/       uncompressed, those that a VM needs
    <root>/<id>/initramfs-<agent>    made when it is first wanted, anew for each agent
    <root>/current             symbolic link to an <id>

A kernel is put together in a temporary directory, renamed to its id (the start of its digest) and only then made
current by renaming the link: whatever fails, the kernel in use stays in use and nothing is left behind.
"""

import asyncio
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.errors import InvalidRequest, NotFound, OutOfSpace, Unavailable
from atoll.kernel.agent import read_agent
from atoll.kernel.boot_image import read_boot_image
from atoll.kernel.initramfs import LoadedModule, write_initramfs
from atoll.kernel.modules import ModuleTree
from atoll.kernel.package import unpack_package

_ID_DIGITS = 16
_TEMPORARY = ".new-"


@dataclass(frozen=True)
class Kernel:
    """What a VM boots: release, image and initramfs; `digest` stands for image and modules together."""

    version: str
    image: Path
    initramfs: Path
    digest: str


@dataclass(frozen=True)
class KernelInfo:
    """One row of `atoll system kernel list`; `source` says where it came from."""

    version: str
    source: str
    current: bool
    digest: str


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    source: str
    digest: str
    modules: tuple[str, ...]
    on_demand: tuple[str, ...] = ()


class KernelStore:
    """The kernels below `root`; `agent` is the binary that becomes their `/init`.

    To be made by the one engine that owns `root`: what a killed one left half made is swept away.
    """

    def __init__(self, root: Path, agent: Path) -> None:
        self._root = root
        self._agent = agent
        self._digest = ""
        self._digest_of: tuple[int, int, int] | None = None
        for stale in root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale, ignore_errors=True)

    async def set_package(self, name: str) -> KernelInfo:
        """Use the kernel of a Debian package from now on; raises as `unpack_package` and `set_binary`."""
        with self._scratch() as scratch:
            unpacked = await unpack_package(name, scratch)
            return await asyncio.to_thread(self._set, unpacked.image, unpacked.modules, f"package {name}")

    async def set_binary(self, image: Path, modules: Path | None) -> KernelInfo:
        """Use the kernel in file `image` from now on, with the modules of the directory `modules`.

        Without `modules` everything that a VM needs must be built in. Raises `InvalidRequest` for a file that is no
        kernel and for another kernel's modules, `Unavailable` naming a module that is missing.
        """
        return await asyncio.to_thread(self._set, image, modules, f"binary {image}")

    async def set_host(self) -> KernelInfo:
        """Use the host's own kernel from now on; raises `NotFound` where its files are not installed."""
        release = os.uname().release
        image, modules = Path(f"/boot/vmlinuz-{release}"), Path(f"/lib/modules/{release}")
        for path in (image, modules):
            if not path.exists():
                raise NotFound(
                    f"the host's kernel cannot be used: {path} is not there; "
                    "use 'atoll system kernel set --package linux-image-cloud-amd64'"
                )
        return await asyncio.to_thread(self._set, image, modules, f"host {release}")

    async def list(self) -> list[KernelInfo]:
        """All kernels that are here, by release."""
        current = self._current_id()
        records = sorted(self._records(), key=lambda record: (record.version, record.digest))
        return [
            KernelInfo(record.version, record.source, _id(record.digest) == current, record.digest)
            for record in records
        ]

    async def current(self) -> Kernel:
        """The kernel in use, with an initramfs for the present agent; `Unavailable` when none is set or no agent."""
        identity = self._current_id()
        record = None if identity is None else self._record(self._root / identity)
        if identity is None or record is None:
            raise Unavailable(
                "no kernel is set: run 'atoll system kernel set --package linux-image-cloud-amd64', "
                "or name a file with --binary"
            )
        directory = self._root / identity
        initramfs = directory / f"initramfs-{self._agent_digest()[:_ID_DIGITS]}"
        if not initramfs.exists():
            await asyncio.to_thread(_make_initramfs, directory, record, read_agent(self._agent), initramfs)
        return Kernel(version=record.version, image=directory / "image", initramfs=initramfs, digest=record.digest)

    def _agent_digest(self) -> str:
        """Read once for each agent: every start asks for it."""
        identity = _identity(self._agent)
        if identity is None or identity != self._digest_of:
            self._digest = hashlib.sha256(read_agent(self._agent)).hexdigest()
            self._digest_of = identity
        return self._digest

    def _set(self, image: Path, modules: Path | None, source: str) -> KernelInfo:
        boot = read_boot_image(image)
        loaded = () if modules is None else _tree(modules, boot.version).load()
        digest = _digest(boot.data, loaded)
        record = _Record(
            version=boot.version,
            source=source,
            digest=digest,
            modules=tuple(module.file_name for module in loaded),
            on_demand=tuple(module.file_name for module in loaded if module.on_demand),
        )
        with self._scratch() as scratch:
            new = scratch / "kernel"
            (new / "modules").mkdir(parents=True)
            _write(new / "image", boot.data)
            for module in loaded:
                _write(new / "modules" / module.file_name, module.data)
            _write(new / "kernel.json", msgspec.json.encode(record))
            new.chmod(0o755)
            home = self._root / _id(digest)
            if self._record(home) is None:
                shutil.rmtree(home, ignore_errors=True)
                new.rename(home)
            else:
                (new / "kernel.json").rename(home / "kernel.json")
            link = scratch / "current"
            link.symlink_to(home.name)
            link.rename(self._root / "current")
        return KernelInfo(version=boot.version, source=source, current=True, digest=digest)

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        """A directory on the store's file system that vanishes with all that is left in it."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=self._root) as name:
                yield Path(name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"no space left for a kernel on the disk that holds {self._root}") from error
            raise

    def _current_id(self) -> str | None:
        try:
            return (self._root / "current").readlink().name
        except FileNotFoundError:
            return None

    def _records(self) -> Iterator[_Record]:
        if not self._root.is_dir():
            return
        for directory in self._root.iterdir():
            if directory.is_dir() and not directory.is_symlink() and not directory.name.startswith(_TEMPORARY):
                record = self._record(directory)
                if record is not None:
                    yield record

    def _record(self, directory: Path) -> _Record | None:
        try:
            return msgspec.json.decode((directory / "kernel.json").read_bytes(), type=_Record)
        except (OSError, msgspec.DecodeError):
            return None


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What tells one version of a file from the next; None when it cannot be looked at."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _tree(modules: Path, version: str) -> ModuleTree:
    if modules.name != version and (modules / version).is_dir():
        modules = modules / version
    tree = ModuleTree.read(modules)
    if tree.version != version:
        raise InvalidRequest(f"{modules} holds the modules of kernel {tree.version}, but the image is kernel {version}")
    return tree


def _make_initramfs(directory: Path, record: _Record, agent: bytes, initramfs: Path) -> None:
    modules = [
        LoadedModule(name, (directory / "modules" / name).read_bytes(), name in record.on_demand)
        for name in record.modules
    ]
    stale = set(directory.glob("initramfs-*"))
    descriptor, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            write_initramfs(file, agent, modules)
            os.fchmod(descriptor, 0o644)
        Path(name).rename(initramfs)
    finally:
        Path(name).unlink(missing_ok=True)
    for old in stale - {initramfs}:
        old.unlink(missing_ok=True)


def _write(path: Path, data: bytes) -> None:
    """Durable before the rename that makes it count; readable for the unprivileged user that QEMU runs as."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())


def _digest(image: bytes, modules: tuple[LoadedModule, ...]) -> str:
    digest = hashlib.sha256(image)
    for module in modules:
        digest.update(module.file_name.encode() + b"\0" + hashlib.sha256(module.data).digest())
        digest.update(b"later" if module.on_demand else b"")
    return digest.hexdigest()


def _id(digest: str) -> str:
    return digest[:_ID_DIGITS]
