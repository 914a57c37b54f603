"""Containers with a runtime and a VM, and no engine: bundles made by the test, forked by a zygote."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

import msgspec
from msgspec.structs import replace

from atoll.errors import AtollError
from atoll.image.disk import ComposedDisk, DiskLayer, compose_disk
from atoll.image.layer import write_layer
from atoll.image.writable import make_writable_disk
from atoll.kernel import Kernel, KernelStore, agent_path
from atoll.model.agent import Extent
from atoll.model.container import BundleSpec, ContainerConfig, DiskFiles, ExitStatus, Export, SpareSpec, VmSpec
from atoll.runtime.client import RuntimeClient
from atoll.runtime.logs import LogReader
from atoll.runtime.spawner import Spawner
from atoll.template import Stage
from atoll.vmm import SavedMachine
from harness.kernel import UnpackedKernel


@dataclass(frozen=True)
class Guest:
    """What every container of these tests boots: a kernel, and busybox as the only layer."""

    kernel: Kernel
    disk: ComposedDisk
    layer: Path
    cache: Path


def make_guest(kernel: UnpackedKernel, busybox_tar: Path, directory: Path) -> Guest:
    """The kernel and a disk of busybox, made in `directory`."""
    for name in ("kernels", "ingest", "disk", "cache"):
        (directory / name).mkdir()

    async def current_kernel() -> Kernel:
        store = KernelStore(directory / "kernels", agent_path())
        await store.set_binary(kernel.image, kernel.modules)
        return await store.current()

    layer = directory / "layer.squashfs"
    with busybox_tar.open("rb") as tar, layer.open("xb+", buffering=0) as file:
        written = write_layer(tar, file)
    disk = compose_disk([DiskLayer(written.diff_id, layer)], directory / "disk", directory / "ingest")
    return Guest(asyncio.run(current_kernel()), disk, layer, directory / "cache")


@dataclass(frozen=True)
class Container:
    """A container with a runtime, whose VM may still be booting."""

    client: RuntimeClient
    spec: BundleSpec

    @property
    def exit_record(self) -> ExitStatus:
        """What the runtime has left in the bundle."""
        return msgspec.json.decode((Path(self.spec.bundle) / "exit.json").read_bytes(), type=ExitStatus)

    def logged(self, *, stdout: bool = True, stderr: bool = True) -> bytes:
        """What the container has written."""
        with LogReader(Path(self.spec.bundle) / "log", stdout=stdout, stderr=stderr) as reader:
            return b"".join(piece.data for piece in reader.pieces())

    async def run(self) -> ExitStatus:
        """Start, and wait for the end."""
        await self.client.start()
        return await self.client.wait()


Launch = Callable[[Spawner, BundleSpec, Path], Awaitable[None]]
"""Makes the runtime of a bundle, whose specification is in a file."""


async def launch_cold(spawner: Spawner, spec: BundleSpec, config: Path) -> None:
    """A runtime whose VM boots."""
    await spawner.spawn(config)


def launch_clone(template: SavedMachine) -> Launch:
    """A runtime whose VM is a clone of the template."""

    async def launch(spawner: Spawner, spec: BundleSpec, config: Path) -> None:
        await spawner.spawn(config, template)

    return launch


def launch_spare(template: SavedMachine, stage: Stage) -> Launch:
    """A runtime whose VM has rehearsed, on copies of the stage's disks, before it is the container's."""

    async def launch(spawner: Spawner, spec: BundleSpec, config: Path) -> None:
        directory = config.parent / "spare"
        directory.mkdir()
        vm = {name: getattr(spec, name) for name in VmSpec.__struct_fields__} | {"run_dir": str(directory / "run")}
        spare = SpareSpec(
            **vm,
            name="spare",
            stage_image=str(shutil.copy(str(stage.image), directory / "image")),
            stage_writable=str(shutil.copy(str(stage.writable), directory / "writable")),
        )
        (directory / "spare.json").write_bytes(msgspec.json.encode(spare))
        await spawner.spawn(directory / "spare.json", template, is_spare=True)
        await asyncio.to_thread(Path(spare.run_dir).rename, spec.run_dir)
        client = await RuntimeClient.connect(Path(spec.run_dir))
        await client.claim(config)
        await client.close()

    return launch


@asynccontextmanager
async def bundled_container(
    guest: Guest,
    spawner: Spawner,
    directory: Path,
    command: tuple[str, ...],
    bundle: Path | None,
    config: dict[str, object],
    exports: tuple[Export, ...] = (),
    launch: Launch = launch_cold,
    **changes: object,
) -> AsyncIterator[Container]:
    """A container with a runtime; at the end it is killed if it still runs, and must have left no run directory.

    `changes` are to its `BundleSpec`.
    """
    identity = token_hex(32)
    if bundle is None:
        bundle = directory / identity
        bundle.mkdir()
        make_writable_disk(bundle / "writable.img", 256 << 20, guest.cache, guest.cache)
    run_dir = directory / f"run-{identity[:12]}"
    spec = BundleSpec(
        id=identity,
        name="test",
        config=ContainerConfig(image="busybox", image_id="sha256:0", hostname="reef", command=command, **config),  # type: ignore[arg-type]  # each test names real fields
        bundle=str(bundle),
        run_dir=str(run_dir),
        kernel=str(guest.kernel.image),
        initramfs=str(guest.kernel.initramfs),
        image=DiskFiles(
            path=str(guest.disk.path),
            format=guest.disk.format,
            files={number: str(path) for number, path in guest.disk.files.items()},
        ),
        layers=tuple(Extent(offset, size) for offset, size in guest.disk.extents),
        writable_disk=str(bundle / "writable.img"),
        exports=exports,
        accelerator="tcg",
        qemu="qemu-system-x86_64",
        cpus=1,
        memory_mib=256,
        boot_timeout_s=60,
        vm_uid=None if os.geteuid() else 65534,
        log_max_bytes=10 << 20,
        log_max_files=2,
    )
    config_file = bundle / "config.json"
    spec = replace(spec, **changes)
    config_file.write_bytes(msgspec.json.encode(spec))
    await launch(spawner, spec, config_file)
    client = await RuntimeClient.connect(run_dir)
    try:
        yield Container(client, spec)
    finally:
        with suppress(AtollError):
            await client.stop(signal.SIGKILL, 0)
        async with asyncio.timeout(60):
            await client.wait_gone()
        await client.close()
    assert not run_dir.exists()
