"""Images and the containers made of them: neither is ever without the other."""

import asyncio
from collections.abc import AsyncIterator, Set
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from doubles.runtime import MemoryLauncher
from doubles.volumes import volumes_in
from harness.archives import file, tar

from atoll.engine.admission import Admission
from atoll.engine.ahead import Ahead
from atoll.engine.bundle import remove_files
from atoll.engine.container import Container
from atoll.engine.create import create_container
from atoll.engine.events import EventBus
from atoll.engine.images import Images
from atoll.engine.network import NetworkTable
from atoll.engine.networking import Networking
from atoll.engine.record import RecordTable
from atoll.engine.registry import Registry
from atoll.engine.segments import Segments
from atoll.engine.services import Services, Tasks
from atoll.engine.timings import LastTimings
from atoll.engine.topology import Topology
from atoll.errors import Conflict, NotFound
from atoll.image import ContentStore, Image, Registries
from atoll.model.container import ContainerConfig
from atoll.paths import Paths
from atoll.settings import Settings
from atoll.store import Database


class SlowStore(ContentStore):
    """Makes a container's disk when it is told to."""

    def __init__(self, root: Path, database: Database) -> None:
        super().__init__(root, database)
        self.is_asked = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def writable_disk(self, path: Path, size_bytes: int) -> None:
        self.is_asked.set()
        await self.may_go_on.wait()
        await super().writable_disk(path, size_bytes)


class EngineOfImages:
    """What has to do with images in an engine, with the image `reef`."""

    def __init__(self, root: Path, stack: AsyncExitStack, group: asyncio.TaskGroup) -> None:
        self.paths = Paths(root=root, run=root / "run", socket=root / "s", settings_file=root / "atoll.toml")
        for directory in (self.paths.containers, self.paths.run):
            directory.mkdir()
        database = Database(self.paths.database)
        stack.callback(database.close)
        self.store = SlowStore(self.paths.content, database)
        registry: Registry[Container] = Registry()
        events, launcher, tasks, settings = EventBus(), MemoryLauncher(), Tasks(group), Settings()
        self.images = Images(self.store, Registries(), registry, events)
        topology = Topology(NetworkTable(database), list, events, settings.network_pools, list)
        self.services = Services(
            paths=self.paths,
            settings=settings,
            table=RecordTable(database),
            events=events,
            launcher=launcher,
            tasks=tasks,
            registry=registry,
            admission=Admission(settings, lambda: 0),
            ahead=Ahead(launcher, tasks),
            timings=LastTimings(),
            volumes=volumes_in(self.paths.volumes, database),
            topology=topology,
            networking=Networking(topology, Segments(self.paths.networks, tasks), tasks),
            remove_files=lambda container_id: remove_files(self.paths, container_id),
        )

    async def import_(self) -> Image:
        async def chunks() -> AsyncIterator[bytes]:
            yield tar([file("sh", b"#!")])

        return await self.store.import_(chunks(), "reef")

    async def create(self, image: Image) -> Container:
        def configure(container_id: str) -> ContainerConfig:
            return ContainerConfig(image="reef", image_id=image.id, command=("sh",), hostname="h", disk_bytes=32 << 20)

        return await create_container(self.services, self.store, None, configure, drops_privileges=False)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[EngineOfImages]:
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        yield EngineOfImages(tmp_path, stack, group)


async def test_an_image_that_goes_while_a_container_is_made_of_it_leaves_no_container(engine: EngineOfImages) -> None:
    image = await engine.import_()
    engine.store.may_go_on.clear()
    creating = asyncio.create_task(engine.create(image))
    await engine.store.is_asked.wait()
    await engine.images.remove("reef", force=False)
    engine.store.may_go_on.set()
    with pytest.raises(NotFound, match="No such image: reef"):
        await creating
    assert list(engine.services.registry) == []
    assert list(engine.paths.containers.iterdir()) == []


async def test_a_container_that_is_there_first_keeps_its_image(engine: EngineOfImages) -> None:
    image = await engine.import_()
    container = await engine.create(image)
    for reference in ("reef", image.id):
        with pytest.raises(Conflict):
            await engine.images.remove(reference, force=False)
    assert await engine.images.remove(image.id, force=True) == [{"Untagged": "reef:latest"}]
    assert await engine.images.prune(lambda image: True, dangling=False) == ([], 0)
    assert await engine.store.image_disk(await engine.store.get(container.record.config.image_id))


async def test_creating_and_removing_at_once_leave_a_container_with_its_image_or_neither(
    engine: EngineOfImages,
) -> None:
    async def removal(image: Image) -> None:
        await engine.images.remove(image.id, force=True)

    for _ in range(20):
        image = await engine.import_()
        created, _ = await asyncio.gather(engine.create(image), removal(image), return_exceptions=True)
        here: Set[str] = {other.id for other in await engine.store.list()}
        if isinstance(created, Container):
            assert image.id in here
            await created.remove(force=True)
        else:
            assert isinstance(created, NotFound)
            assert image.id not in here
