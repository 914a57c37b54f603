"""Volumes whose disks are empty files."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.engine.events import EventBus
from atoll.engine.record import ContainerRecord
from atoll.engine.volume import VolumeTable
from atoll.engine.volumes import Volumes
from atoll.store import Database


async def make_empty_disk(path: Path, size_bytes: int) -> None:
    """A hole."""
    with path.open("xb") as file:
        file.truncate(size_bytes)


def volumes_in(root: Path, database: Database, records: Iterable[ContainerRecord] = ()) -> Volumes:
    """The volumes below `root`, used by the containers of `records`."""
    return Volumes(root, VolumeTable(database), lambda: records, EventBus(), make_empty_disk, 16 << 20)


@contextmanager
def open_volumes(root: Path, records: Iterable[ContainerRecord] = ()) -> Iterator[Volumes]:
    """The same with a database of their own; opened again they are what they were."""
    database = Database(root / "test.db")
    try:
        yield volumes_in(root / "volumes", database, records)
    finally:
        database.close()
