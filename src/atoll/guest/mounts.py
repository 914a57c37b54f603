"""The mounts of a container in the order in which they are made: what lies deeper comes later, as in Docker."""

from collections.abc import Iterable
from pathlib import PurePosixPath

from atoll.guest.tmpfs import tmpfs_mount
from atoll.model.agent import Disk, Mount
from atoll.model.container import BundleSpec


def container_mounts(spec: BundleSpec, *, image: Disk, volumes: Disk) -> tuple[Mount, ...]:
    """Every mount of a container; `image` and `volumes` are the disks that its volumes are on.

    Raises `InvalidRequest` for a tmpfs that cannot be.
    """
    return in_order(
        [
            *(tmpfs_mount(target, options) for target, options in sorted(spec.config.tmpfs.items())),
            *(
                Mount(
                    type="volume",
                    source="",
                    target=volume.target,
                    options=("ro",) if volume.read_only else (),
                    disk=image if volume.on == "image" else volumes,
                    extent=volume.extent,
                    fill=volume.fills,
                )
                for volume in spec.volume_mounts
            ),
            *(
                # What is read-only is so on the host as well, whatever the guest does.
                Mount(
                    type="share",
                    source=str(number),
                    target=export.target,
                    options=("ro",) if export.read_only else (),
                    fill=export.fills,
                )
                for number, export in enumerate(spec.exports)
            ),
        ]
    )


def in_order(mounts: Iterable[Mount]) -> tuple[Mount, ...]:
    """`mounts`, those of fewer path components first."""
    return tuple(sorted(mounts, key=lambda mount: len(PurePosixPath(mount.target).parts)))
