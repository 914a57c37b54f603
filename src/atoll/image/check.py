"""`system check`: is everything in the store what it was when it came in, and nothing else there? And mending it.

A blob has its digest for a name. A layer's squashfs is held to a checksum taken soon after it was made, or, without
one, to what its blob makes. What can be made anew from something whole is; an image that cannot be mended goes, unless
a container has it.
"""

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from enum import Enum
from io import FileIO
from pathlib import Path

from atoll.errors import AtollError
from atoll.image.blobs import BlobStore
from atoll.image.catalog import Catalog
from atoll.image.disk import DESCRIPTOR, disk_descriptor, disk_key
from atoll.image.durable import new_file, sha256_of, write_fully
from atoll.image.feed import consume_file
from atoll.image.garbage import Garbage
from atoll.image.layers import LayerStore
from atoll.image.limits import Limits
from atoll.image.verity import TreeStore

_FSCK_S = 600
_PLAIN = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


class Outcome(Enum):
    """What became of something that was found."""

    LEFT = "left"
    REPAIRED = "repaired"
    REMOVED = "removed"


@dataclass(frozen=True)
class Finding:
    """Something that is wrong: a `kind` of thing, its name, a phrase that goes on after it."""

    kind: str
    name: str
    problem: str
    outcome: Outcome = Outcome.LEFT


@dataclass(frozen=True)
class Checked:
    """How many things were looked at, and how many of what was found are still wrong."""

    images: int = 0
    blobs: int = 0
    layers: int = 0
    disks: int = 0
    found: int = 0
    left: int = 0


class Check:
    """One run, inside `garbage.busy`: nothing is deleted meanwhile. `report` hears what is found when it is found.

    `is_used` says whether a container has an image.
    """

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        layers: LayerStore,
        trees: TreeStore,
        disks: Path,
        writable: Path,
        ingest: Path,
        limits: Limits,
        garbage: Garbage,
        is_used: Callable[[str], bool],
        report: Callable[[Finding], Awaitable[None]],
        *,
        repair: bool,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._layers = layers
        self._trees = trees
        self._disks = disks
        self._writable = writable
        self._ingest = ingest
        self._limits = limits
        self._garbage = garbage
        self._is_used = is_used
        self._report = report
        self._repair = repair
        self._checked = Checked()
        self._bad_blobs: set[str] = set()
        self._bad_layers: set[str] = set()

    async def run(self) -> Checked:
        """Look at everything."""
        await self._check_garbage()
        live = self._catalog.live()
        for digest in sorted(live.blobs):
            await self._check_blob(digest)
        for diff_id in sorted(live.layers):
            await self._check_layer(diff_id)
            await self._check_tree(diff_id)
        for diff_ids in sorted(live.disks):
            for verified in (False, True):
                await self._check_disk(diff_ids, verified=verified)
        for path in sorted(self._writable.iterdir()):
            await self._check_formatted(path)
        for image_id in self._catalog.ids():
            await self._check_image(image_id)
        if self._repair:
            self._garbage.expect()
        return self._checked

    async def _found(self, kind: str, name: str, problem: str, outcome: Outcome = Outcome.LEFT) -> None:
        left = self._checked.left + (outcome is Outcome.LEFT)
        self._checked = replace(self._checked, found=self._checked.found + 1, left=left)
        await self._report(Finding(kind, name, problem, outcome))

    async def _check_garbage(self) -> None:
        if not self._garbage.is_alone:
            return  # what comes in has no name yet
        for path in sorted(self._garbage.find()):
            outcome = Outcome.REMOVED if self._repair else Outcome.LEFT
            await self._found("file", str(path), "belongs to no image", outcome)

    async def _check_blob(self, digest: str) -> None:
        self._checked = replace(self._checked, blobs=self._checked.blobs + 1)
        checksum = await asyncio.to_thread(_checksum, self._blobs.path(digest))
        if f"sha256:{checksum}" == digest:
            return
        self._bad_blobs.add(digest)
        outcome = Outcome.LEFT
        if self._repair:
            # Who loads the image again brings it back; until then nothing is better than this.
            self._blobs.path(digest).unlink(missing_ok=True)
            outcome = Outcome.REMOVED
        problem = "is gone" if checksum is None else f"was damaged on disk: its bytes have sha256:{checksum}"
        await self._found("blob", digest, problem, outcome)

    async def _check_layer(self, diff_id: str) -> None:
        self._checked = replace(self._checked, layers=self._checked.layers + 1)
        path = self._layers.path(diff_id)
        checksum, wanted = await asyncio.to_thread(_checksum, path), self._catalog.checksum(diff_id)
        problem = "is gone" if checksum is None else "was damaged on disk"
        if checksum is not None and wanted is None:
            # Nobody has looked at it since it was made.
            wanted = await self._made(diff_id, keep=False)
            if wanted is None:
                problem = "cannot be checked: it has no checksum, and no blob that it could be made of"
            elif wanted == checksum:
                self._catalog.record_checksum(diff_id, checksum)
        if checksum is not None and checksum == wanted:
            return
        outcome = Outcome.LEFT
        if self._repair and (made := await self._made(diff_id, keep=True)) is not None:
            self._catalog.record_checksum(diff_id, made)
            outcome = Outcome.REPAIRED
        else:
            self._bad_layers.add(diff_id)
        await self._found("layer", diff_id, problem, outcome)

    async def _made(self, diff_id: str, *, keep: bool) -> str | None:
        """The checksum of the layer that a blob makes, kept or not; None when there is no blob for it."""
        for digest in self._catalog.layer_blobs(diff_id):
            if digest in self._bad_blobs:
                continue
            try:
                return await consume_file(
                    self._blobs.path(digest),
                    lambda source: self._layers.remake(source, diff_id, self._limits, keep=keep),
                )
            except AtollError as error:
                await self._found("blob", digest, f"cannot be made a layer of: {error}")
        return None

    async def _check_tree(self, diff_id: str) -> None:
        """The hash tree of a layer, which is made when it is wanted first."""
        if diff_id in self._bad_layers:
            return
        if await asyncio.to_thread(self._trees.is_sound, diff_id, self._layers.path(diff_id)):
            return
        outcome = Outcome.LEFT
        if self._repair:
            self._trees.forget(diff_id)  # the layer itself is what it should be
            outcome = Outcome.REPAIRED
        await self._found("layer", diff_id, "has a hash tree that is not its own", outcome)

    async def _check_disk(self, diff_ids: tuple[str, ...], *, verified: bool) -> None:
        descriptor = self._disks / disk_key(diff_ids, verified=verified) / DESCRIPTOR
        if not descriptor.parent.exists():
            return  # composed when it is wanted first
        self._checked = replace(self._checked, disks=self._checked.disks + 1)
        if self._bad_layers.intersection(diff_ids):
            return  # that is the layer's trouble
        parts = [self._layers.path(diff_id) for diff_id in diff_ids]
        parts += [self._trees.path(diff_id) for diff_id in diff_ids] if verified else []
        if not all(part.exists() for part in parts):
            return  # a tree that is made anew is as large as it was
        sizes = [part.stat().st_size for part in parts]
        wanted = disk_descriptor(sizes)
        if not descriptor.exists() or await asyncio.to_thread(descriptor.read_bytes) == wanted:
            return
        outcome = Outcome.LEFT
        if self._repair:
            await asyncio.to_thread(self._write, descriptor, wanted)
            outcome = Outcome.REPAIRED
        await self._found("disk", str(descriptor), "does not show the layers of its image", outcome)

    def _write(self, path: Path, data: bytes) -> None:
        with new_file(self._ingest) as new:
            write_fully(new.file, data)
            new.keep_as(path)

    async def _check_formatted(self, path: Path) -> None:
        """An empty file system that containers get copies of."""
        self._checked = replace(self._checked, disks=self._checked.disks + 1)
        if (problem := await asyncio.to_thread(_file_system_problem, path)) is None:
            return
        outcome = Outcome.LEFT
        if self._repair:
            await asyncio.to_thread(path.unlink)  # formatted anew when it is wanted next
            outcome = Outcome.REPAIRED
        await self._found("disk", str(path), problem, outcome)

    async def _check_image(self, image_id: str) -> None:
        """Is all there that the image needs? What is missing was said already; here is what that means."""
        self._checked = replace(self._checked, images=self._checked.images + 1)
        problem = self._image_problem(image_id)
        if problem is None:
            return
        names = [name.familiar for name in self._catalog.names(image_id)]
        outcome = Outcome.LEFT
        if self._repair and self._is_used(image_id):
            problem += "; a container has it: load or pull it again"
        elif self._repair:
            self._catalog.remove(image_id)
            outcome = Outcome.REMOVED
        await self._found("image", ", ".join(names) or image_id, problem, outcome)

    def _image_problem(self, image_id: str) -> str | None:
        if self._bad_blobs.intersection(self._catalog.documents(image_id)):
            return "cannot be used: a document of it is gone or damaged"
        for diff_id in self._catalog.diff_ids(image_id):
            if diff_id in self._bad_layers:
                return f"cannot be run: layer {diff_id} is gone or damaged"
            there = self._catalog.layer_blobs(diff_id)
            if not set(there) - self._bad_blobs:
                return f"cannot be saved: layer {diff_id} has no blob any more"
            if self._repair:
                for digest in self._bad_blobs.intersection(there):
                    self._catalog.forget_blob(digest)  # another one makes the same layer
        return None


def _checksum(path: Path) -> str | None:
    """The file's SHA-256; None when there is no file."""
    try:
        with FileIO(path) as file:
            # A page in memory may be whole when the disk's is not.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return sha256_of(file)
    except FileNotFoundError:
        return None


def _file_system_problem(path: Path) -> str | None:
    command = ["e2fsck", "-f", "-n", os.fspath(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_FSCK_S, env=_PLAIN, check=False)
    except FileNotFoundError:
        return "cannot be checked: e2fsck is missing (package e2fsprogs)"
    if done.returncode == 0:
        return None
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    return f"is no sound file system: {said[-1] if said else f'e2fsck ended with {done.returncode}'}"
