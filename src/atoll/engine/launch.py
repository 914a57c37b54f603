"""Launching a container's runtime: from its record to a bundle that says all a runtime needs, and a process."""

import asyncio
import shutil
from contextlib import suppress

from msgspec import structs

from atoll.engine.bundle import WRITABLE, read_exit, write_spec
from atoll.engine.guest_networks import GetNetwork, host_gateway, interfaces, resolvers
from atoll.engine.pool import Pool
from atoll.engine.record import ContainerRecord
from atoll.engine.sizing import vm_size
from atoll.engine.templates import Templates
from atoll.engine.vms import VmMaker
from atoll.engine.volume_use import ContainerDisks, VolumeUse
from atoll.errors import AtollError
from atoll.image import ComposedDisk, ContentStore
from atoll.model.agent import Extent, HashTree
from atoll.model.container import BundleSpec, ExitStatus, VmSpec
from atoll.model.runtime import StartReport
from atoll.paths import Paths
from atoll.runtime.client import RuntimeClient
from atoll.runtime.spawner import Spawner
from atoll.settings import Settings
from atoll.template import TemplateKey


class RuntimeLauncher:
    """Makes runtimes out of records, and finds those that an earlier engine made."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        content: ContentStore,
        vms: VmMaker,
        templates: Templates,
        pool: Pool,
        spawner: Spawner,
        volume_use: VolumeUse,
        network_of: GetNetwork,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._content = content
        self._vms = vms
        self._templates = templates
        self._pool = pool
        self._spawner = spawner
        self._volume_use = volume_use
        self._network_of = network_of
        self._used: dict[str, TemplateKey] = {}

    async def launch(self, record: ContainerRecord) -> RuntimeClient:
        """A runtime whose VM is ready, or comes up at once: one of the pool, a clone, or booted cold.

        Raises `Unavailable` (no QEMU, no kernel), `NotFound`, `VmFailed`.
        """
        size = vm_size(record.config, self._settings)
        (kernel, vm), image = await asyncio.gather(self._vms.make(size), self._content.get(record.config.image_id))
        disk, found = await asyncio.gather(
            self._content.image_disk(image, verified=record.config.verify), self._templates.find(kernel, vm)
        )
        run_dir = self._paths.run_dir(record.id)
        shutil.rmtree(run_dir, ignore_errors=True)
        try:
            await self._volume_use.take(record)
            bundle = self._paths.bundle(record.id)
            disks = await asyncio.to_thread(self._volume_use.disks, record, disk, bundle)
            config = write_spec(self._spec(record, vm, disks, disk))
            if found is not None:
                self._used[record.id] = found[0]
                claimed = await self._pool.claim(size, found[0], config, run_dir)
                if claimed is not None:
                    return claimed
            run_dir.mkdir(mode=0o700, exist_ok=True)
            await self._spawner.spawn(config, found[1].saved if found is not None else None)
            return await RuntimeClient.connect(run_dir)
        except BaseException:
            self.clean_up(record)
            raise
        finally:
            if found is not None:
                found[1].close()

    def started(self, record: ContainerRecord, report: StartReport | None) -> None:
        """A container has started, or has failed to (None): what that says of its template, and of the pool."""
        key = self._used.pop(record.id, None)
        if key is not None and report is not None and report.template_failure:
            self._templates.discard(key, report.template_failure)
        self._pool.refill()

    async def find(self, record: ContainerRecord) -> RuntimeClient | None:
        """The runtime of a container, when it answers."""
        try:
            return await RuntimeClient.connect(self._paths.run_dir(record.id))
        except AtollError:
            return None

    def adopted(self, record: ContainerRecord) -> None:
        """A container runs that an earlier engine started."""
        with suppress(AtollError):
            self._volume_use.note(record)

    def clean_up(self, record: ContainerRecord) -> None:
        """A runtime is gone: so is its hold on volumes, and its run directory, if it was killed."""
        self._volume_use.release(record.id)
        shutil.rmtree(self._paths.run_dir(record.id), ignore_errors=True)

    def last_exit(self, record: ContainerRecord) -> ExitStatus | None:
        """What the last runtime left in the bundle."""
        return read_exit(self._paths.bundle(record.id))

    def _spec(self, record: ContainerRecord, vm: VmSpec, disks: ContainerDisks, disk: ComposedDisk) -> BundleSpec:
        config, settings = record.config, self._settings
        bundle = self._paths.bundle(record.id)
        return BundleSpec(
            **structs.asdict(vm) | {"vm_uid": record.vm_uid, "run_dir": str(self._paths.run_dir(record.id))},
            id=record.id,
            name=record.name,
            config=config,
            bundle=str(bundle),
            image=disks.image,
            layers=tuple(Extent(offset, size) for offset, size in disk.extents),
            trees=tuple(HashTree(place=Extent(offset, size), root=root) for offset, size, root in disk.trees),
            volumes=disks.volumes,
            volume_mounts=disks.mounts,
            exports=self._volume_use.exports(record),
            interfaces=interfaces(record, self._network_of),
            resolvers=resolvers(record, self._network_of),
            host_gateway=host_gateway(record, self._network_of),
            writable_disk=None if config.read_only else str(bundle / WRITABLE),
            log_max_bytes=config.log_max_bytes or settings.log_max_mib << 20,
            log_max_files=config.log_max_files or settings.log_max_files,
        )
