"""The engine: everything that `atolld` owns, put together and taken apart again.

Leaving `open_engine` stops nothing but the engine: containers run on, and the next engine adopts them.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from atoll.engine.accelerators import AcceleratorChoice
from atoll.engine.admission import Admission
from atoll.engine.adoption import adopt_containers, honour_policies
from atoll.engine.ahead import Ahead
from atoll.engine.bundle import remove_files
from atoll.engine.container import Container
from atoll.engine.create import Configure, create_container
from atoll.engine.events import EventBus
from atoll.engine.execs import Execs
from atoll.engine.images import Images
from atoll.engine.launch import RuntimeLauncher
from atoll.engine.lock import engine_lock
from atoll.engine.network import BRIDGE, NetworkTable
from atoll.engine.networking import Networking
from atoll.engine.networks import Networks
from atoll.engine.pool import Pool
from atoll.engine.record import ContainerRecord, RecordTable
from atoll.engine.registry import Registry
from atoll.engine.segments import Segments
from atoll.engine.services import Services, Tasks
from atoll.engine.sizing import default_size, vm_memory_mib
from atoll.engine.stage import Stages
from atoll.engine.templates import Templates
from atoll.engine.timings import LastTimings
from atoll.engine.topology import Topology
from atoll.engine.vms import VmMaker
from atoll.engine.volume import VolumeTable
from atoll.engine.volume_use import VolumeUse
from atoll.engine.volumes import Volumes
from atoll.errors import AtollError, NotModified
from atoll.image import DOCKERS_CERTIFICATES, ContentStore, Limits, Patience, Registries
from atoll.kernel import KernelStore, agent_path
from atoll.model.container import ContainerState
from atoll.paths import Paths
from atoll.runtime.spawner import Spawner
from atoll.settings import Settings
from atoll.store import Database
from atoll.template import TemplateStore

log = logging.getLogger("atoll.engine")

TIDY_UP_S = 5.0


@dataclass(frozen=True)
class Engine:
    """What the API serves."""

    services: Services
    images: Images
    kernels: KernelStore
    accelerators: AcceleratorChoice
    vms: VmMaker
    templates: Templates
    pool: Pool
    execs: Execs
    networks: Networks
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def paths(self) -> Paths:
        """The engine's places."""
        return self.services.paths

    @property
    def settings(self) -> Settings:
        """The engine's settings."""
        return self.services.settings

    @property
    def containers(self) -> Registry[Container]:
        """All containers."""
        return self.services.registry

    @property
    def events(self) -> EventBus:
        """What happens."""
        return self.services.events

    @property
    def volumes(self) -> Volumes:
        """All volumes."""
        return self.services.volumes

    @property
    def tasks(self) -> Tasks:
        """What must outlive a request."""
        return self.services.tasks

    async def create(self, name: str | None, configure: Configure) -> Container:
        """Make a container (`create.py`)."""
        as_root = os.geteuid() == 0
        made = await create_container(self.services, self.images.content, name, configure, drops_privileges=as_root)
        # A volume is taken by a container that is started, not by one that might be.
        uses_volumes = any(mount.type == "volume" for mount in made.record.config.mounts)
        if self.services.admission.has_leisure and not uses_volumes:
            self.services.ahead.begin(made.record)
        return made

    async def remove(self, container: Container, force: bool, *, with_volumes: bool = False) -> None:
        """Remove a container with its execs, and its anonymous volumes if so asked."""
        await container.remove(force, with_volumes=with_volumes)
        self.execs.forget(container)

    async def stop_containers(self, timeout_s: float | None) -> None:
        """Stop every container that runs, all at once."""
        running = [container for container in self.containers if container.record.has_vm or container.record.restarting]
        ends = await asyncio.gather(*(container.stop(timeout_s) for container in running), return_exceptions=True)
        for container, end in zip(running, ends, strict=True):
            if isinstance(end, BaseException) and not isinstance(end, NotModified):
                log.warning("container %s could not be stopped: %s", container.name, end)

    def warm_up(self) -> None:
        """Do in the background what the first start would wait for: initramfs, accelerator, template, pool."""
        self.tasks.spawn(self._warm_up(), "preparation of the first start")

    async def _warm_up(self) -> None:
        try:
            kernel, vm = await self.vms.make(default_size(self.settings))
            if self.settings.templates:
                await self.templates.build(kernel, vm)
        except AtollError as error:
            log.info("the first start is not prepared: %s", error)
        self.pool.refill()

    def counts(self) -> dict[str, int]:
        """How many containers there are: `total`, `running`, `paused`, `stopped`."""
        records = [container.record for container in self.containers]
        paused = sum(record.state is ContainerState.PAUSED for record in records)
        running = sum(record.is_running for record in records) - paused
        return {"total": len(records), "running": running, "paused": paused, "stopped": len(records) - running - paused}


async def _tidy_up(templates: Templates, pool: Pool, content: ContentStore, admission: Admission) -> None:
    while True:
        await asyncio.sleep(TIDY_UP_S)
        await pool.tidy_up()
        templates.tidy_up()
        while admission.has_leisure and await content.upkeep.take_checksum():
            pass


def promised_mib(containers: Registry[Container], settings: Settings) -> int:
    """The memory that containers which run, or are being started, may use."""
    records = (container.record for container in containers)
    return sum(vm_memory_mib(record.config.memory_bytes, settings) for record in records if record.has_vm)


def _registries(paths: Paths, settings: Settings) -> Registries:
    return Registries(
        insecure=frozenset(settings.insecure_registries),
        mirrors=settings.registry_mirrors,
        certificates=(DOCKERS_CERTIFICATES, paths.settings_file.parent / "certs.d"),
        patience=Patience(silence_s=settings.registry_timeout_s),
    )


@asynccontextmanager
async def open_engine(paths: Paths, settings: Settings) -> AsyncIterator[Engine]:
    """The engine of `paths`, its containers adopted; raises `Conflict` when another one has them, `Unavailable`."""
    async with AsyncExitStack() as stack:
        for private in (paths.root, paths.content, paths.containers, paths.kernels, paths.run, paths.networks):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(engine_lock(paths.lock))
        database = Database(paths.database)
        stack.callback(database.close)
        registries = _registries(paths, settings)
        content = ContentStore(
            paths.content,
            database,
            limits=Limits(layer_bytes=settings.max_layer_bytes),
            registries=registries,
        )
        kernels = KernelStore(paths.kernels, agent_path())
        spawner = await stack.enter_async_context(Spawner())
        tasks = Tasks(await stack.enter_async_context(asyncio.TaskGroup()))
        stack.callback(tasks.cancel_all)
        accelerators = AcceleratorChoice(settings, paths.root / "accelerator.json", tasks)
        registry: Registry[Container] = Registry()
        events = EventBus()
        segments = Segments(paths.networks, tasks)
        stack.push_async_callback(segments.close)
        vms = VmMaker(paths, settings, kernels, accelerators, segments.directory_for_vms)
        admission = Admission(settings, lambda: promised_mib(registry, settings))
        stages = Stages(paths.templates / "rehearsal")
        templates = Templates(settings, TemplateStore(paths.templates), stages, tasks)
        stack.callback(templates.close)
        usual = default_size(settings)
        pool = Pool(paths, settings, templates, stages, spawner, admission, tasks, vms.make, usual)
        stack.push_async_callback(pool.close)
        segments.keeper_lost.append(pool.renew)

        def records() -> Iterator[ContainerRecord]:
            return (container.record for container in registry)

        volumes = Volumes(
            paths.volumes, VolumeTable(database), records, events, content.volume_disk, settings.volume_mib << 20
        )
        topology = Topology(NetworkTable(database), records, events, settings.network_pools)
        use = VolumeUse(volumes, records)
        networking = Networking(topology, segments, tasks)
        launcher = RuntimeLauncher(paths, settings, content, vms, templates, pool, spawner, use, topology.get)
        services = Services(
            paths=paths,
            settings=settings,
            table=RecordTable(database),
            events=events,
            launcher=launcher,
            tasks=tasks,
            registry=registry,
            admission=admission,
            ahead=Ahead(launcher, tasks),
            timings=LastTimings(),
            volumes=volumes,
            topology=topology,
            networking=networking,
            remove_files=lambda container_id: remove_files(paths, container_id),
        )
        await adopt_containers(services)
        tasks.spawn(segments.open(topology.all(), topology.get(BRIDGE)), "start of networks")
        honour_policies(services)
        tasks.spawn(_tidy_up(templates, pool, content, admission), "tidying up")
        yield Engine(
            services=services,
            vms=vms,
            templates=templates,
            pool=pool,
            images=Images(content, registries, registry, events),
            kernels=kernels,
            accelerators=accelerators,
            execs=Execs(tasks),
            networks=Networks(topology, segments, networking, registry),
        )
