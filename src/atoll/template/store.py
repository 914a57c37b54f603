"""The templates on disk: one directory each, by id, written whole or not at all and verified when it is read.

    <root>/<id>/template.json   what it was made of, and the digests of the other two; its time is that of the last use
                memory, state

A template is a cache: what is damaged is removed, what cannot be written is done without.
"""

import errno
import os
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from atoll.errors import NotFound, OutOfSpace, VmFailed
from atoll.template.template import Template, TemplateKey, TemplateRecord, copy_file, new_template

_RECORD, _MEMORY, _STATE = "template.json", "memory", "state"
_TEMPORARY = ".new-"


@dataclass(frozen=True)
class StoredTemplate:
    """A template on disk; `size_bytes` is what it takes of the disk."""

    record: TemplateRecord
    size_bytes: int
    last_used_at: datetime


class TemplateStore:
    """The templates below `root`, which belongs to one engine: what a killed one left half made is swept away."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in root.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(stale, ignore_errors=True)

    def list(self) -> list[StoredTemplate]:
        """Every template, the one that was used last first."""
        found = [stored for path in self._root.iterdir() if (stored := self._stored(path)) is not None]
        return sorted(found, key=lambda stored: stored.last_used_at, reverse=True)

    def has(self, key: TemplateKey) -> bool:
        """Whether there is one, sound or not."""
        return (self._root / key.id / _RECORD).exists()

    def keep(self, key: TemplateKey, template: Template) -> None:
        """Write a template; raises `OutOfSpace`, `OSError`, and leaves nothing then. Blocks for a tenth of a second."""
        try:
            with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=self._root, ignore_cleanup_errors=True) as name:
                new = Path(name) / "template"
                new.mkdir(mode=0o700)
                record = TemplateRecord(
                    key=key,
                    memory_digest=_write(template.saved.memory, new / _MEMORY),
                    state_digest=_write(template.saved.state, new / _STATE),
                    created_at=datetime.now(UTC),
                )
                (new / _RECORD).write_bytes(msgspec.json.encode(record))
                self.remove(key.id)
                new.rename(self._root / key.id)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise OutOfSpace(f"no space left for a template on the disk that holds {self._root}") from error
            raise

    def load(self, key: TemplateKey) -> Template:
        """Read a template into memory and seal it; raises `NotFound`, `VmFailed` when it is damaged, `OSError`."""
        directory = self._root / key.id
        stored = self._stored(directory)
        if stored is None:
            raise NotFound(f"there is no template {key.id}")
        if stored.record.key != key:
            raise VmFailed(f"template {key.id} is not what its name says")
        template = new_template(key.memory_mib)
        try:
            for name, descriptor, digest in (
                (_MEMORY, template.saved.memory, stored.record.memory_digest),
                (_STATE, template.saved.state, stored.record.state_digest),
            ):
                if _read(directory / name, descriptor) != digest:
                    raise VmFailed(f"template {key.id} is damaged: {name} is not what was written")
            template.seal()
            self.touch(key)
        except BaseException:
            template.close()
            raise
        return template

    def touch(self, key: TemplateKey) -> None:
        """Note that a template is in use."""
        record = self._root / key.id / _RECORD
        if record.exists():
            os.utime(record)

    def find(self, prefix: str) -> StoredTemplate:
        """The one template whose id begins so; raises `NotFound`."""
        found = [stored for stored in self.list() if stored.record.key.id.startswith(prefix)]
        if not prefix or len(found) != 1:
            what = "no template" if not found else f"not one but {len(found)} templates"
            raise NotFound(f"there is {what} {prefix}: 'atoll system template list' shows all")
        return found[0]

    def remove(self, identity: str) -> None:
        """Remove a template, if it is there."""
        directory = self._root / identity
        if directory.exists():
            doomed = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
            directory.rename(doomed / "template")
            shutil.rmtree(doomed, ignore_errors=True)

    def _stored(self, directory: Path) -> StoredTemplate | None:
        try:
            record = msgspec.json.decode((directory / _RECORD).read_bytes(), type=TemplateRecord)
            times = (directory / _RECORD).stat()
            sizes = sum(file.stat().st_blocks * 512 for file in directory.iterdir())
        except (OSError, msgspec.MsgspecError):
            return None
        return StoredTemplate(record, sizes, datetime.fromtimestamp(times.st_mtime, UTC))


def _write(source: int, path: Path) -> str:
    with ExitStack() as stack:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, descriptor)
        digest = copy_file(source, descriptor)
        os.fsync(descriptor)
        return digest


def _read(path: Path, target: int) -> str:
    with ExitStack() as stack:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return "missing"
        stack.callback(os.close, descriptor)
        return copy_file(descriptor, target)
