"""The engine's volumes: made, found, removed.

The files first, then the row of the table; a removal the other way round. So a crash leaves at most files that nobody
names, which the next start removes, and a volume that somebody was told of is never lost.
"""

import asyncio
import os
import secrets
import shutil
from collections.abc import Awaitable, Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from atoll.engine.events import EventBus
from atoll.engine.record import ContainerRecord
from atoll.engine.volume import DATA, DISK, Volume, VolumeOptions, VolumeTable, check_volume_name
from atoll.errors import Conflict, NotFound
from atoll.model.container import MountPoint

_MIB = 1 << 20
_NEW, _REMOVED = ".new-", ".removed-"

MakeDisk = Callable[[Path, int], Awaitable[None]]


class Volumes:
    """All volumes of an engine, below `root`; `records` are the containers that may use them."""

    def __init__(
        self,
        root: Path,
        table: VolumeTable,
        records: Callable[[], Iterable[ContainerRecord]],
        events: EventBus,
        make_disk: MakeDisk,
        default_bytes: int,
    ) -> None:
        """Open them, and sweep what a crash has left. `make_disk` makes an empty one of so many bytes."""
        self._root = root
        self._table = table
        self._records = records
        self._events = events
        self._make_disk = make_disk
        self._default_bytes = default_bytes
        self._volumes = {volume.name: volume for volume in table.all()}
        self._changing = asyncio.Lock()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in root.iterdir():
            if directory.name not in self._volumes:
                shutil.rmtree(directory, ignore_errors=True)

    def __iter__(self) -> Iterator[Volume]:
        """Every volume, by name."""
        return iter(sorted(self._volumes.values(), key=lambda volume: volume.name))

    def get(self, name: str) -> Volume:
        """The volume called `name`; raises `NotFound`."""
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(f"get {name}: no such volume") from None

    def directory(self, volume: Volume) -> Path:
        """What is shown as its mount point: the directory of a shared volume, else that which holds its disk."""
        return self._root / volume.name / DATA if volume.is_shared else self._root / volume.name

    def disk(self, name: str) -> Path:
        """The disk of a volume that is not shared."""
        return self._root / name / DISK

    def used_bytes(self, volume: Volume) -> int:
        """What a volume takes on the host; blocks on the disk."""
        if not volume.is_shared:
            return self.disk(volume.name).stat().st_blocks * 512
        entries = (Path(parent) / name for parent, _, names in os.walk(self.directory(volume)) for name in names)
        return sum(entry.lstat().st_blocks * 512 for entry in entries)

    def users(self, name: str) -> list[ContainerRecord]:
        """The containers that a volume is mounted in, whether they run or not."""
        return [record for record in self._records() if any(mount.name == name for mount in record.config.mounts)]

    async def create(
        self, name: str | None, options: dict[str, str], labels: dict[str, str], *, is_anonymous: bool = False
    ) -> Volume:
        """A new volume, or that of this name as it is; None is a name at random.

        Raises `InvalidRequest`, `Unsupported`, `OutOfSpace`.
        """
        asked = VolumeOptions.parse(options)
        name = secrets.token_hex(32) if name is None else check_volume_name(name)
        async with self._changing:
            if (found := self._volumes.get(name)) is not None:
                return found
            size_bytes = 0 if asked.is_shared else _whole_mib(asked.size_bytes or self._default_bytes)
            volume = Volume(
                name=name,
                created_at=datetime.now(UTC),
                size_bytes=size_bytes,
                is_shared=asked.is_shared,
                is_anonymous=is_anonymous,
                labels=labels,
                options=options,
            )
            await self._make_files(volume)
            self._table.insert(volume)
            self._volumes[name] = volume
        self._publish("create", volume)
        return volume

    async def provide(self, mounts: Iterable[MountPoint]) -> list[str]:
        """Make those volumes among `mounts` that are missing, all or none, and return their names."""
        made: list[str] = []
        try:
            for mount in mounts:
                if mount.type == "volume" and mount.name not in self._volumes:
                    made.append(mount.name)
                    await self.create(mount.name, mount.options, mount.labels, is_anonymous=mount.is_anonymous)
        except BaseException:
            await self.forget(made)
            raise
        return made

    async def forget(self, names: Iterable[str]) -> None:
        """Remove those of the volumes that are there and that no container uses."""
        for name in names:
            if name in self._volumes and not self.users(name):
                await self._remove(self._volumes[name])

    async def remove(self, name: str, *, force: bool = False) -> None:
        """Remove a volume with its data; raises `NotFound` (unless `force`), `Conflict` when a container uses it."""
        if force and name not in self._volumes:
            return
        volume = self.get(name)
        if users := self.users(name):
            raise Conflict(f"remove {name}: volume is in use - [{', '.join(user.id for user in users)}]")
        await self._remove(volume)

    async def _make_files(self, volume: Volume) -> None:
        new = self._root / f"{_NEW}{volume.name}"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        try:
            if volume.is_shared:
                (new / DATA).mkdir(mode=0o755)
            else:
                await self._make_disk(new / DISK, volume.size_bytes)
            new.rename(self._root / volume.name)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    async def _remove(self, volume: Volume) -> None:
        async with self._changing:
            if self._volumes.pop(volume.name, None) is None:
                return
            self._table.delete(volume.name)
            doomed = self._root / f"{_REMOVED}{secrets.token_hex(8)}"
            (self._root / volume.name).rename(doomed)
        self._publish("destroy", volume)
        await asyncio.to_thread(shutil.rmtree, doomed, ignore_errors=True)

    def _publish(self, action: str, volume: Volume) -> None:
        self._events.publish("volume", action, volume.name, {"driver": "local"})


def _whole_mib(size_bytes: int) -> int:
    """Disks of volumes are whole MiBs long, so that several make one disk with nothing between them."""
    return -(-size_bytes // _MIB) * _MIB
