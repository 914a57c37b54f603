"""Launching a container's runtime: from its record to a bundle that says all a runtime needs, and a process."""

import asyncio
import shutil
from typing import Protocol

from atoll.engine.bundle import WRITABLE, read_exit, write_spec
from atoll.engine.record import ContainerRecord
from atoll.engine.sizing import virtual_cpus, vm_memory_mib
from atoll.errors import AtollError, Unavailable
from atoll.image import ContentStore
from atoll.kernel import Kernel, KernelStore
from atoll.model.container import BundleSpec, ExitStatus
from atoll.paths import Paths
from atoll.runtime.client import RuntimeClient
from atoll.runtime.spawner import Spawner
from atoll.settings import Settings
from atoll.vmm import Accelerator


class Accelerators(Protocol):
    """Chooses how guest code runs."""

    async def choose(self, kernel: Kernel) -> Accelerator:
        """The accelerator for `kernel`; the first time takes as long as a boot."""


class RuntimeLauncher:
    """Makes runtimes out of records, and finds those that an earlier engine made."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        content: ContentStore,
        kernels: KernelStore,
        accelerators: Accelerators,
        spawner: Spawner,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._content = content
        self._kernels = kernels
        self._accelerators = accelerators
        self._spawner = spawner

    async def launch(self, record: ContainerRecord) -> RuntimeClient:
        """Fork a runtime, whose VM boots at once; raises `Unavailable` (no QEMU, no kernel), `NotFound`, `VmFailed`."""
        spec = await self._spec(record)
        run_dir = self._paths.run_dir(record.id)
        shutil.rmtree(run_dir, ignore_errors=True)
        run_dir.mkdir(mode=0o700)
        try:
            await self._spawner.spawn(write_spec(spec))
            return await RuntimeClient.connect(run_dir)
        except BaseException:
            shutil.rmtree(run_dir, ignore_errors=True)
            raise

    async def find(self, record: ContainerRecord) -> RuntimeClient | None:
        """The runtime of a container, when it answers."""
        try:
            return await RuntimeClient.connect(self._paths.run_dir(record.id))
        except AtollError:
            return None

    def clean_up(self, record: ContainerRecord) -> None:
        """Remove the run directory of a runtime that was killed; the others did so themselves."""
        shutil.rmtree(self._paths.run_dir(record.id), ignore_errors=True)

    def last_exit(self, record: ContainerRecord) -> ExitStatus | None:
        """What the last runtime left in the bundle."""
        return read_exit(self._paths.bundle(record.id))

    async def _spec(self, record: ContainerRecord) -> BundleSpec:
        config, settings = record.config, self._settings
        bundle = self._paths.bundle(record.id)
        qemu = shutil.which(settings.qemu)
        if qemu is None:
            raise Unavailable(
                f"QEMU is missing: {settings.qemu} is not on PATH, install qemu-system-x86 or name it in "
                f"{self._paths.settings_file}"
            )
        kernel = await self._kernels.current()
        image = await self._content.get(config.image_id)
        disk, accelerator = await asyncio.gather(self._content.image_disk(image), self._accelerators.choose(kernel))
        return BundleSpec(
            id=record.id,
            name=record.name,
            config=config,
            bundle=str(bundle),
            run_dir=str(self._paths.run_dir(record.id)),
            kernel=str(kernel.image),
            initramfs=str(kernel.initramfs),
            image_disk=str(disk.descriptor),
            layers=tuple(str(layer.squashfs) for layer in image.layers),
            image_files={number: str(file) for number, file in disk.files.items()},
            writable_disk=None if config.read_only else str(bundle / WRITABLE),
            accelerator=accelerator.name,
            qemu=qemu,
            cpus=virtual_cpus(config, settings),
            memory_mib=vm_memory_mib(config, settings),
            boot_timeout_s=settings.boot_timeout_s,
            vm_uid=record.vm_uid,
            log_max_bytes=config.log_max_bytes or settings.log_max_mib << 20,
            log_max_files=config.log_max_files or settings.log_max_files,
        )
