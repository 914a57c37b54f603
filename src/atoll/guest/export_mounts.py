"""Directories and files of the host as mounts of a container: each is known by its number."""

from atoll.model.agent import Mount
from atoll.model.container import Export


def export_mounts(exports: tuple[Export, ...]) -> tuple[Mount, ...]:
    """A mount for each of `exports`, in order; what is read-only is so on the host as well, whatever the guest does."""
    return tuple(
        Mount(target=export.target, type="share", source=str(number), options=("ro",) if export.read_only else ())
        for number, export in enumerate(exports)
    )
