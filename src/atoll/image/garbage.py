"""What no image needs: put aside when nothing is under way, deleted at leisure.

Files first, then the entry in the catalog, in this order on the way in and the other on the way out. The entry's end is
made durable before a file goes: a host that loses power at any instant finds no image without its files.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.image.blobs import BlobStore
from atoll.image.catalog import Catalog
from atoll.image.disk import disk_key
from atoll.image.layers import LayerStore
from atoll.image.verity import TreeStore


class Garbage:
    """Files of the store that the catalog does not name; `disks` holds composed disks."""

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, layers: LayerStore, trees: TreeStore, disks: Path, ingest: Path
    ) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._layers = layers
        self._trees = trees
        self._disks = disks
        self._ingest = ingest
        self._under_way = 0
        self._is_expected = False

    @property
    def is_alone(self) -> bool:
        """Whether the caller, who is inside `busy`, is the only one: files without a name are nobody's then."""
        return self._under_way == 1

    def expect(self) -> None:
        """Say that there may be garbage once nothing is under way."""
        self._is_expected = True

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """While anything is under way, files that no image names may be needed; afterwards they are garbage."""
        self._under_way += 1
        try:
            yield
        except BaseException:
            self._is_expected = True
            raise
        finally:
            self._under_way -= 1
            if self._is_expected and not self._under_way:
                await asyncio.shield(self._collect())

    def sweep(self) -> None:
        """Remove all of it, before anything is under way: what a crash has left. Blocks."""
        self._catalog.make_durable()
        self._trees.forget_all_but(self._catalog.live().layers)
        if trash := self._put_aside(self.find()):
            shutil.rmtree(trash)

    def find(self) -> set[Path]:
        """The files that no image needs now."""
        live = self._catalog.live()
        disks = {disk_key(diff_ids, verified=verified) for diff_ids in live.disks for verified in (False, True)}
        found = {self._layers.path(diff_id) for diff_id in self._layers.diff_ids() if diff_id not in live.layers}
        found |= {self._blobs.path(digest) for digest in self._blobs.digests() if digest not in live.blobs}
        found |= self._trees.all_but(live.layers)
        return found | {directory for directory in self._disks.iterdir() if directory.name not in disks}

    async def _collect(self) -> None:
        found = self.find()
        await asyncio.to_thread(self._catalog.make_durable)
        if self._under_way:
            return  # whoever is last comes by here again
        self._is_expected = False
        self._trees.forget_all_but(self._catalog.live().layers)
        # What became garbage since is somebody else's to collect: its end is not durable yet.
        if trash := self._put_aside(found & self.find()):
            await asyncio.to_thread(shutil.rmtree, trash)

    def _put_aside(self, garbage: Collection[Path]) -> Path | None:
        """Move it into a directory of its own, which may then be deleted at leisure."""
        if not garbage:
            return None
        try:
            trash = Path(tempfile.mkdtemp(dir=self._ingest, prefix="trash-"))
            for number, path in enumerate(garbage):
                path.rename(trash / str(number))
        except OSError:  # a disk so full that it has no room for a directory
            for path in garbage:
                if path.is_dir():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            return None
        return trash
