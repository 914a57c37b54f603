"""The engine: everything that `atolld` owns, put together and taken apart again.

Leaving `open_engine` stops nothing but the engine: containers run on, and the next engine adopts them.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from atoll.engine.accelerators import AcceleratorChoice
from atoll.engine.adoption import adopt_containers, honour_policies
from atoll.engine.bundle import remove_files
from atoll.engine.container import Container
from atoll.engine.create import Configure, create_container
from atoll.engine.events import EventBus
from atoll.engine.execs import Execs
from atoll.engine.images import Images
from atoll.engine.launch import RuntimeLauncher
from atoll.engine.lock import engine_lock
from atoll.engine.record import RecordTable
from atoll.engine.registry import Registry
from atoll.engine.services import Services, Tasks
from atoll.errors import AtollError, NotModified
from atoll.image import ContentStore, Limits
from atoll.kernel import KernelStore, agent_path
from atoll.model.container import ContainerState
from atoll.paths import Paths
from atoll.runtime.spawner import Spawner
from atoll.settings import Settings
from atoll.store import Database

log = logging.getLogger("atoll.engine")


@dataclass(frozen=True)
class Engine:
    """What the API serves."""

    services: Services
    images: Images
    kernels: KernelStore
    accelerators: AcceleratorChoice
    execs: Execs
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
    def tasks(self) -> Tasks:
        """What must outlive a request."""
        return self.services.tasks

    async def create(self, name: str | None, configure: Configure) -> Container:
        """Make a container (`create.py`)."""
        as_root = os.geteuid() == 0
        return await create_container(self.services, self.images.content, name, configure, drops_privileges=as_root)

    async def remove(self, container: Container, force: bool) -> None:
        """Remove a container with its execs."""
        await container.remove(force)
        self.execs.forget(container)

    async def stop_containers(self, timeout_s: float | None) -> None:
        """Stop every container that runs, all at once."""
        running = [container for container in self.containers if container.record.has_vm or container.record.restarting]
        ends = await asyncio.gather(*(container.stop(timeout_s) for container in running), return_exceptions=True)
        for container, end in zip(running, ends, strict=True):
            if isinstance(end, BaseException) and not isinstance(end, NotModified):
                log.warning("container %s could not be stopped: %s", container.name, end)

    def warm_up(self) -> None:
        """Do in the background what the first start would wait for: the initramfs, and the choice of accelerator."""
        self.tasks.spawn(self._warm_up(), "preparation of the first start")

    async def _warm_up(self) -> None:
        try:
            await self.accelerators.choose(await self.kernels.current())
        except AtollError as error:
            log.info("the first start is not prepared: %s", error)

    def counts(self) -> dict[str, int]:
        """How many containers there are: `total`, `running`, `paused`, `stopped`."""
        records = [container.record for container in self.containers]
        paused = sum(record.state is ContainerState.PAUSED for record in records)
        running = sum(record.is_running for record in records) - paused
        return {"total": len(records), "running": running, "paused": paused, "stopped": len(records) - running - paused}


@asynccontextmanager
async def open_engine(paths: Paths, settings: Settings) -> AsyncIterator[Engine]:
    """The engine of `paths`, its containers adopted; raises `Conflict` when another one has them, `Unavailable`."""
    async with AsyncExitStack() as stack:
        for private in (paths.root, paths.content, paths.containers, paths.kernels, paths.run):
            private.mkdir(mode=0o700, parents=True, exist_ok=True)
        stack.enter_context(engine_lock(paths.lock))
        database = Database(paths.database)
        stack.callback(database.close)
        content = ContentStore(
            paths.content,
            database,
            limits=Limits(layer_bytes=settings.max_layer_bytes),
            insecure_registries=settings.insecure_registries,
        )
        kernels = KernelStore(paths.kernels, agent_path())
        spawner = await stack.enter_async_context(Spawner())
        tasks = Tasks(await stack.enter_async_context(asyncio.TaskGroup()))
        stack.callback(tasks.cancel_all)
        accelerators = AcceleratorChoice(settings, paths.root / "accelerator.json", tasks)
        registry: Registry[Container] = Registry()
        events = EventBus()
        services = Services(
            paths=paths,
            settings=settings,
            table=RecordTable(database),
            events=events,
            launcher=RuntimeLauncher(paths, settings, content, kernels, accelerators, spawner),
            tasks=tasks,
            registry=registry,
            remove_files=lambda container_id: remove_files(paths, container_id),
        )
        await adopt_containers(services)
        honour_policies(services)
        yield Engine(
            services=services,
            images=Images(content, registry, events),
            kernels=kernels,
            accelerators=accelerators,
            execs=Execs(tasks),
        )
