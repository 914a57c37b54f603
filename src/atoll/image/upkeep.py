"""Looking after a store: what takes room in it, checking it, and the checksums that a check goes by."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from atoll.image.blobs import BlobStore
from atoll.image.catalog import Catalog
from atoll.image.check import Check, Checked, Finding
from atoll.image.garbage import Garbage
from atoll.image.layers import LayerStore
from atoll.image.limits import Limits
from atoll.image.usage import Usage
from atoll.image.verity import TreeStore


class Upkeep:
    """For whoever looks after a store; `disks` are composed ones, `writable` those that containers get copies of."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        layers: LayerStore,
        trees: TreeStore,
        garbage: Garbage,
        limits: Limits,
        *,
        disks: Path,
        writable: Path,
        ingest: Path,
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._layers = layers
        self._trees = trees
        self._garbage = garbage
        self._limits = limits
        self._disks = disks
        self._writable = writable
        self._ingest = ingest

    def usage(self) -> Usage:
        """What the images take on the disk."""
        images = {image_id: self._catalog.diff_ids(image_id) for image_id in self._catalog.ids()}
        blobs = {diff_id: self._catalog.layer_blobs(diff_id) for diff_ids in images.values() for diff_id in diff_ids}
        sizes = {
            diff_id: self._layers.size_bytes(diff_id) + sum(max(self._blobs.size_bytes(blob), 0) for blob in there)
            for diff_id, there in blobs.items()
        }
        return Usage(sizes, images)

    async def check(
        self, report: Callable[[Finding], Awaitable[None]], is_used: Callable[[str], bool], *, repair: bool
    ) -> Checked:
        """Hold everything to what it was when it came in, and with `repair` mend it; `is_used` by containers."""
        async with self._garbage.busy():
            check = Check(
                self._catalog,
                self._blobs,
                self._layers,
                self._trees,
                self._disks,
                self._writable,
                self._ingest,
                self._limits,
                self._garbage,
                is_used,
                report,
                repair=repair,
            )
            return await check.run()

    async def take_checksum(self) -> bool:
        """Take the checksum of a layer that has none, when all is quiet; whether there was one."""
        async with self._garbage.busy():
            for diff_id in self._catalog.layers_without_checksum():
                with suppress(OSError):  # gone, or not to be read: that is for a check to say
                    checksum = await asyncio.to_thread(self._layers.checksum, diff_id)
                    self._catalog.record_checksum(diff_id, checksum)
                    return True
        return False
