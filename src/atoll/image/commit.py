"""`commit`: an image one layer above another, with a configuration of its own.

How it is put together is Docker's way: `NewChildImage` of moby's image package, and its daemon's `merge`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
from msgspec.structs import replace

from atoll.image.changes import apply_changes
from atoll.image.oci import Execution, History, ImageConfig, RootFilesystem
from atoll.image.rootfs import StoredLayer


@dataclass(frozen=True)
class Commit:
    """What is said of a commit: `execution` is how its containers run, `changes` what Dockerfile lines make of that."""

    execution: Execution
    created_by: str = ""
    author: str = ""
    comment: str = ""
    changes: Sequence[str] = ()


def committed_config(parent: ImageConfig, layer: StoredLayer, commit: Commit) -> tuple[bytes, tuple[str, ...]]:
    """The configuration of `parent` with `layer` above it, and its diff IDs; a layer without anything in it is none.

    Raises `InvalidRequest` for a wrong change.
    """
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    diff_ids = (*parent.diff_ids, layer.diff_id) if layer.entries else parent.diff_ids
    step = History(
        created=created,
        created_by=commit.created_by,
        author=commit.author,
        comment=commit.comment,
        empty_layer=not layer.entries,
    )
    config = replace(
        parent,
        created=created,
        author=commit.author,
        config=apply_changes(commit.execution, commit.changes),
        rootfs=RootFilesystem(type="layers", diff_ids=diff_ids),
        history=(*(parent.history or ()), step),
    )
    return msgspec.json.encode(config), diff_ids


def merged_execution(asked: Execution, container: Execution) -> Execution:
    """What was asked for, and where that says nothing, what the container has."""
    names = {entry.partition("=")[0] for entry in asked.env or ()}
    inherited = tuple(entry for entry in container.env or () if entry.partition("=")[0] not in names)
    entrypoint, cmd = asked.entrypoint, asked.cmd
    if not entrypoint:
        cmd = cmd or container.cmd
        entrypoint = container.entrypoint if entrypoint is None else entrypoint
    return replace(
        asked,
        user=asked.user or container.user,
        exposed_ports={**(container.exposed_ports or {}), **(asked.exposed_ports or {})} or None,
        env=(*(asked.env or ()), *inherited) or None,
        entrypoint=entrypoint or None,
        cmd=cmd or None,
        healthcheck=asked.healthcheck or container.healthcheck,
        volumes={**(container.volumes or {}), **(asked.volumes or {})} or None,
        working_dir=asked.working_dir or container.working_dir,
        labels={**(container.labels or {}), **(asked.labels or {})} or None,
        stop_signal=asked.stop_signal or container.stop_signal,
        stop_timeout=container.stop_timeout if asked.stop_timeout is None else asked.stop_timeout,
        shell=asked.shell or container.shell,
    )
