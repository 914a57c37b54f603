"""Host directories and files that are bind-mounted: whether they are there, and made where Docker makes them."""

from collections.abc import Iterable
from pathlib import Path

from atoll.errors import InvalidRequest
from atoll.model.container import MountPoint


def prepare_sources(mounts: Iterable[MountPoint]) -> None:
    """Make the directories that `-v` names and that are missing; raises `InvalidRequest` for what `--mount` names."""
    for mount in mounts:
        if mount.type != "bind":
            continue
        source = Path(mount.source)
        if mount.makes_source:
            try:
                source.mkdir(mode=0o755, parents=True, exist_ok=True)
            except FileExistsError:
                continue  # a file is mounted as it is
            except OSError as error:
                raise InvalidRequest(f"error while creating mount source path '{source}': {error.strerror}") from error
        elif not source.exists():
            raise InvalidRequest(
                f'invalid mount config for type "bind": bind source path does not exist: {mount.source}'
            )
