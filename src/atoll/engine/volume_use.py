"""Who has which volume: a disk is written by one VM, or read by many, never both.

And the disks that a container's VM gets for its volumes: those that it may write as one more disk, those that it only
reads behind the layers of its image, on a disk that no guest can write.
"""

import asyncio
import os
import shutil
import struct
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atoll.engine.record import ContainerRecord
from atoll.engine.volumes import Volumes
from atoll.errors import Conflict, Unavailable, Unsupported
from atoll.image import ComposedDisk, glue
from atoll.image.disk import FIRST_LAYER_FDSET
from atoll.model.agent import Extent
from atoll.model.container import DiskFiles, Export, MountPoint, VolumeMount

MOST_VOLUMES = 100
"""So many fit into what a VMDK descriptor may be long, and into one message of the agent's."""
_VM_ENDS_S = 20.0
"""A container that has ended leaves its volumes when they are unmounted."""
_FIRST_VOLUME_FDSET = 500
_IMAGE_DISK, _VOLUMES_DISK = "image.vmdk", "volumes.vmdk"

# <https://docs.kernel.org/filesystems/ext4/globals.html#super-block>: s_feature_incompat, INCOMPAT_RECOVER
_INCOMPAT = struct.Struct("<I")
_INCOMPAT_OFFSET = 1024 + 0x60
_RECOVER = 0x4
_REPLAY_S = 300


@dataclass(frozen=True)
class ContainerDisks:
    """What a container's VM gets: its image (and what it reads only), and the volumes that it may write."""

    image: DiskFiles
    volumes: DiskFiles | None
    mounts: tuple[VolumeMount, ...]


class VolumeUse:
    """The volumes that VMs have, by the container."""

    def __init__(self, volumes: Volumes, records: Callable[[], Iterable[ContainerRecord]]) -> None:
        """Nobody has any; `records` are the containers that there are."""
        self._volumes = volumes
        self._records = records
        self._users: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        self._released = asyncio.Event()

    async def take(self, record: ContainerRecord) -> None:
        """Note that the container has its volumes from now on; waits for VMs that are about to be gone.

        Raises `Conflict` when another container has one, `NotFound` when one is gone.
        """
        wanted = self._wanted(record)
        with suppress(TimeoutError):
            async with asyncio.timeout(_VM_ENDS_S):
                while (user := self._in_the_way(record.id, wanted)) is not None and not self._runs(user[0]):
                    await self._released.wait()
        if (user := self._in_the_way(record.id, wanted)) is not None:
            container, name = user
            does = "writes" if self._users[name][container] else "reads"
            called = next((other.name for other in self._records() if other.id == container), container[:12])
            raise Conflict(
                f"volume {name} is in use: container {called} {does} it, and one container may write a volume or many "
                "read it: stop that one, mount it read-only in both, or make the volume with --opt shared"
            )
        self.note(record)

    def note(self, record: ContainerRecord) -> None:
        """The container has its volumes, whoever else has them; raises `NotFound`."""
        for name, writes in self._wanted(record).items():
            self._users[name][record.id] = writes

    def release(self, container_id: str) -> None:
        """Its VM is gone."""
        for name in list(self._users):
            self._users[name].pop(container_id, None)
            if not self._users[name]:
                del self._users[name]
        self._released.set()
        self._released = asyncio.Event()

    def _in_the_way(self, container_id: str, wanted: Mapping[str, bool]) -> tuple[str, str] | None:
        """Another container, and the volume that it has."""
        for name, writes in wanted.items():
            for user, theirs in self._users.get(name, {}).items():
                if user != container_id and (writes or theirs):
                    return user, name
        return None

    def _runs(self, container_id: str) -> bool:
        return any(record.has_vm for record in self._records() if record.id == container_id)

    def disks(self, record: ContainerRecord, image: ComposedDisk, bundle: Path) -> ContainerDisks:
        """The disks of a container that has its volumes; blocks, and writes descriptors into the bundle.

        A volume that is read only, and whose last writer was killed, has its journal replayed: its readers cannot.
        Raises `Unsupported` for too many volumes, `Unavailable`, `OSError`.
        """
        wanted = self._wanted(record)
        if len(wanted) > MOST_VOLUMES:
            raise Unsupported(f"the container has {len(wanted)} volumes: {MOST_VOLUMES} is the most that a VM can have")
        written = [name for name, writes in wanted.items() if writes]
        read = [name for name, writes in wanted.items() if not writes]
        for name in read:
            _replay_journal(self._volumes.disk(name), record.vm_uid)
        image_disk = image
        places: dict[str, tuple[int, int]] = {}
        if read:
            parts = list(image.files.values()) or [image.path]
            image_disk = glue([*parts, *self._files(read)], FIRST_LAYER_FDSET, bundle / _IMAGE_DISK)
            places |= zip(read, image_disk.extents[len(parts) :], strict=True)
        volumes_disk = glue(self._files(written), _FIRST_VOLUME_FDSET, bundle / _VOLUMES_DISK) if written else None
        if volumes_disk is not None:
            places |= zip(written, volumes_disk.extents, strict=True)
        mounts = tuple(
            VolumeMount(
                target=mount.target,
                on="volumes" if mount.name in written else "image",
                extent=Extent(*places[mount.name]),
                read_only=mount.read_only,
                fills=mount.fills and mount.name in written and record.started_at is None,
            )
            for mount in _volume_mounts(record.config.mounts)
            if mount.name in places
        )
        return ContainerDisks(_files(image_disk), None if volumes_disk is None else _files(volumes_disk), mounts)

    def exports(self, record: ContainerRecord) -> tuple[Export, ...]:
        """What the container sees of the host: bind mounts, and its shared volumes; raises `NotFound`."""
        exports = []
        for mount in record.config.mounts:
            path, fills = mount.source, False
            if mount.type == "volume":
                volume = self._volumes.get(mount.name)
                if not volume.is_shared:
                    continue
                path = str(self._volumes.directory(volume))
                fills = mount.fills and not mount.read_only and record.started_at is None
            exports.append(Export(path=path, target=mount.target, read_only=mount.read_only, fills=fills))
        return tuple(exports)

    def _wanted(self, record: ContainerRecord) -> dict[str, bool]:
        """The volumes of a container that are disks, and whether it may write them; raises `NotFound`."""
        wanted: dict[str, bool] = {}
        for mount in _volume_mounts(record.config.mounts):
            if not self._volumes.get(mount.name).is_shared:
                wanted[mount.name] = wanted.get(mount.name, False) or not mount.read_only
        return wanted

    def _files(self, names: Sequence[str]) -> list[Path]:
        return [self._volumes.disk(name) for name in names]


def _volume_mounts(mounts: Sequence[MountPoint]) -> list[MountPoint]:
    return [mount for mount in mounts if mount.type == "volume"]


def _files(disk: ComposedDisk) -> DiskFiles:
    files = {number: str(path) for number, path in disk.files.items()}
    return DiskFiles(path=str(disk.path), format=disk.format, files=files)


def _replay_journal(disk: Path, uid: int | None) -> None:
    """Carry out what a journal says that its writer could not: by a user without rights, and never mounted."""
    with disk.open("r+b") as file:
        file.seek(_INCOMPAT_OFFSET)
        (features,) = _INCOMPAT.unpack(file.read(_INCOMPAT.size))
        if not features & _RECOVER:
            return
        program = shutil.which("e2fsck", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
        if program is None:
            raise Unavailable("e2fsck is missing, which replays a volume's journal: install the package e2fsprogs")
        with _owned_by(file.fileno(), uid):
            done = subprocess.run(
                [program, "-p", "-E", "journal_only", f"/proc/self/fd/{file.fileno()}"],
                pass_fds=[file.fileno()],
                user=uid,
                group=uid,
                extra_groups=[] if uid is not None else None,
                capture_output=True,
                text=True,
                timeout=_REPLAY_S,
            )
    if done.returncode not in (0, 1):
        said = (done.stdout + done.stderr).strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise Unavailable(f"the journal of volume {disk.parent.name} cannot be replayed: {said[0]}")


@contextmanager
def _owned_by(descriptor: int, uid: int | None) -> Iterator[None]:
    """Let a user open the file by its descriptor: a program that is given a path under /proc opens the file anew."""
    if uid is not None:
        os.fchown(descriptor, uid, uid)
    try:
        yield
    finally:
        if uid is not None:
            os.fchown(descriptor, os.geteuid(), os.getegid())
