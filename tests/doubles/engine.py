"""An engine without VMs and without networks' processes: containers, their table, and doubles of what they run in."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from atoll.engine.admission import Admission
from atoll.engine.adoption import adopt_containers, honour_policies
from atoll.engine.ahead import Ahead
from atoll.engine.bundle import new_bundle, remove_files
from atoll.engine.container import Container
from atoll.engine.events import EventBus
from atoll.engine.network import NetworkTable
from atoll.engine.networking import Networking
from atoll.engine.networks import Networks
from atoll.engine.record import ContainerRecord, RecordTable
from atoll.engine.registry import Registry
from atoll.engine.segments import Segments
from atoll.engine.services import Services, Tasks
from atoll.engine.timings import LastTimings
from atoll.engine.topology import Topology
from atoll.model.container import ContainerConfig, RestartPolicy
from atoll.model.network import NetworkWish, PortBinding
from atoll.paths import Paths
from atoll.settings import Settings
from atoll.store import Database
from doubles.runtime import MemoryLauncher
from doubles.segments import MemoryHost
from doubles.volumes import volumes_in

ID = "a" * 64


class EngineWithoutVms:
    """Containers, their table and a launcher; `engine` may be entered again, as after a `kill -9`."""

    def __init__(self, root: Path) -> None:
        self.paths = Paths(root=root, run=root / "run", socket=root / "s", settings_file=root / "atoll.toml")
        self.launcher = MemoryLauncher()
        self.host = MemoryHost()
        for directory in (self.paths.containers, self.paths.run, self.paths.networks):
            directory.mkdir()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Services]:
        """An engine that runs as long as the block; another one adopts its containers."""
        database = Database(self.paths.database)
        async with asyncio.TaskGroup() as group:
            tasks = Tasks(group)
            registry: Registry[Container] = Registry()
            events = EventBus()
            topology = Topology(
                NetworkTable(database), lambda: (it.record for it in registry), events, Settings().network_pools, list
            )
            segments = Segments(self.paths.networks, tasks, self.host.start, self.host.start_keeper, self.host.describe)
            networking = Networking(topology, segments, tasks)
            self.networks = Networks(topology, segments, networking, registry)
            services = Services(
                paths=self.paths,
                settings=Settings(),
                table=RecordTable(database),
                events=events,
                launcher=self.launcher,
                tasks=tasks,
                registry=registry,
                admission=Admission(Settings(), lambda: 0),
                ahead=Ahead(self.launcher, tasks),
                timings=LastTimings(),
                volumes=volumes_in(self.paths.volumes, database),
                topology=topology,
                networking=networking,
                remove_files=lambda container_id: remove_files(self.paths, container_id),
            )
            await adopt_containers(services)
            tasks.spawn(segments.open(topology.all(), topology.get("bridge")), "start of networks")
            honour_policies(services)
            yield services
            await segments.close()
            tasks.cancel_all()
        database.close()


async def make(
    services: Services,
    *,
    auto_remove: bool = False,
    restart: RestartPolicy = RestartPolicy(),  # noqa: B008  # frozen
    name: str = "reef",
    container_id: str = ID,
    networks: tuple[NetworkWish, ...] = (),
    ports: tuple[PortBinding, ...] = (),
) -> Container:
    """A container, created."""
    config = ContainerConfig(
        image="busybox",
        image_id="sha256:0",
        command=("true",),
        hostname="h",
        auto_remove=auto_remove,
        restart=restart,
        networks=networks,
        ports=ports,
    )
    record = ContainerRecord(
        id=container_id,
        name=name,
        created_at=datetime.now(UTC),
        config=config,
        attachments=services.topology.attached(container_id, networks),
    )
    services.registry.reserve(name, container_id)
    async with new_bundle(services.paths.bundle(container_id), None):
        services.table.insert(record)
    container = Container(record, services)
    services.registry.add(container)
    return container
