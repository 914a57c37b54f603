"""The content store: images come in by load, import and pull, and go out as disks.

Files first, then the entry in the catalog, in this order on the way in and the other on the way out: a crash leaves at
most files that nobody names, which the next start removes. One engine owns a store at a time.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Collection, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from atoll.errors import Conflict, InvalidRequest, NotFound
from atoll.image.archive import ArchivedImage, read_archive
from atoll.image.blobs import BlobStore
from atoll.image.catalog import Catalog
from atoll.image.disk import ComposedDisk, DiskLayer, compose_disk, disk_key
from atoll.image.durable import sync_file
from atoll.image.feed import consume, consume_file
from atoll.image.image import Image, Layer
from atoll.image.layers import LayerStore
from atoll.image.limits import DEFAULT_LIMITS, Limits
from atoll.image.manifest import HOST, parse_config, parse_platform
from atoll.image.oci import Descriptor, ImageConfig
from atoll.image.pull import Report, fetch_layers, resolve, together
from atoll.image.reference import Reference
from atoll.image.registry import open_repository
from atoll.image.rootfs import check_changes, imported_config, store_layer
from atoll.image.tarstream import Source
from atoll.image.verity import TreeStore
from atoll.image.writable import VOLUME_DIRECTORIES, make_writable_disk
from atoll.store.database import Database

Removed = list[dict[str, str]]

_CONVERSIONS = 2
"""Layers that are made at once from blobs that are here: one for each of a small machine's CPUs."""
_IDENTIFIER = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})", re.ASCII)


class ContentStore:
    """Everything below `root`: blobs, layers, composed disks, formatted writable disks."""

    def __init__(
        self,
        root: Path,
        database: Database,
        *,
        limits: Limits = DEFAULT_LIMITS,
        insecure_registries: Collection[str] = (),
    ) -> None:
        """Open the store, made when it is missing, and sweep what a crash has left."""
        self._limits = limits
        self._insecure_registries = frozenset(insecure_registries)
        self._ingest = root / "ingest"
        self._disks = root / "disks"
        self._writable = root / "writable"
        shutil.rmtree(self._ingest, ignore_errors=True)
        for directory in (self._ingest, self._disks, self._writable):
            directory.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        self._blobs = BlobStore(root / "blobs", self._ingest)
        self._layers = LayerStore(root / "layers", self._ingest)
        self._trees = TreeStore(root / "verity", self._ingest, database)
        self._catalog = Catalog(database)
        self._configs: dict[str, ImageConfig] = {}
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._converting = asyncio.Semaphore(_CONVERSIONS)
        self._under_way = 0
        self._has_garbage = False
        if trash := self._sort_out():
            shutil.rmtree(trash)

    async def load(self, chunks: AsyncIterator[bytes]) -> list[str]:
        """Load every image of an archive (docker-archive or OCI layout, compressed or not) and return their names.

        The id stands for an image without a name. Raises `InvalidRequest`, `NotFound`, `OutOfSpace`.
        """

        def read(source: Source) -> list[ArchivedImage]:
            with tempfile.TemporaryDirectory(dir=self._ingest) as scratch:
                return read_archive(source, Path(scratch), self._blobs, self._limits)

        async with self._busy():
            images = await consume(chunks, read)
            pairs = dict(pair for image in images for pair in image.layers)
            await together([self._make_layer(diff_id, digest) for diff_id, digest in pairs.items()])
            for image in images:
                self._catalog.add(
                    image.image_id,
                    diff_ids=image.config.diff_ids,
                    documents=image.documents,
                    layer_blobs=image.layers,
                    names=image.names,
                )
        return [name for image in images for name in [n.familiar for n in image.names] or [image.image_id]]

    async def import_(self, chunks: AsyncIterator[bytes], reference: str | None, changes: Sequence[str] = ()) -> Image:
        """Make an image of one layer from the tar of a root filesystem; `changes` are Dockerfile instructions.

        Raises `InvalidRequest`, `OutOfSpace`.
        """
        names = [_name_to_give(reference)] if reference else []
        check_changes(changes)
        async with self._busy():
            layer = await consume(chunks, lambda source: store_layer(source, self._blobs, self._layers, self._limits))
            if not layer.entries:
                raise InvalidRequest("the archive is empty: a root filesystem is needed")
            config = imported_config(layer.diff_id, changes)
            image_id = await asyncio.to_thread(self._blobs.add, config)
            self._catalog.add(
                image_id,
                diff_ids=(layer.diff_id,),
                documents=(image_id,),
                layer_blobs=((layer.diff_id, layer.blob),),
                names=names,
            )
        return self._image(image_id)

    async def pull(self, reference: str, platform: str | None = None, report: Report = lambda line: None) -> Image:
        """Bring an image from its registry; `report` is told how it goes, in lines of Docker's progress stream.

        Raises `NotFound`, `RegistryFailed`, `InvalidRequest` (a hostile or damaged layer), `OutOfSpace`.
        """
        name = Reference.parse(reference).tagged()
        wanted = parse_platform(platform) if platform else HOST
        async with self._busy(), open_repository(name, self._insecure_registries) as repository:
            report({"status": f"Pulling from {name.path}", "id": name.digest or name.tag})
            pulled = await resolve(repository, name, wanted, self._limits)
            before = self._catalog.find(name)
            await fetch_layers(repository, pulled, self._layers.has, self._fetch_layer, report)
            documents = [await asyncio.to_thread(self._blobs.add, document) for document in pulled.documents]
            blobs = [(diff_id, layer.digest) for diff_id, layer in pulled.layers if self._blobs.has(layer.digest)]
            self._catalog.add(
                pulled.image_id,
                diff_ids=pulled.config.diff_ids,
                documents=documents,
                layer_blobs=blobs,
                names=(replace(name, digest=None), replace(name, tag=None, digest=pulled.digest)),
            )
        report({"status": f"Digest: {pulled.digest}"})
        outcome = "Image is up to date" if before == pulled.image_id else "Downloaded newer image"
        report({"status": f"Status: {outcome} for {name.familiar}"})
        return self._image(pulled.image_id)

    async def list(self) -> list[Image]:
        """Every image, those that came last first."""
        return [self._image(image_id) for image_id in self._catalog.ids()]

    async def get(self, name: str) -> Image:
        """The image that a name, a digest, an id or the beginning of one means; raises `NotFound`."""
        return self._image(self._find(name)[0])

    async def tag(self, source: str, name: str) -> None:
        """Let `name` mean the image that `source` means; raises `NotFound`, `InvalidRequest`."""
        image_id, _ = self._find(source)
        self._catalog.name(_name_to_give(name), image_id)

    async def remove(self, name: str, *, force: bool = False, in_use: Set[str] = frozenset()) -> Removed:
        """Take a name away, and the image with its last; returns what Docker does, `Untagged` and `Deleted` in order.

        Images whose id is in `in_use` keep their layers: `Conflict`, or with `force` only their names go.
        Raises `Conflict` for an id whose image is in several repositories, unless `force`; `NotFound`.
        """
        image_id, reference = self._find(name)
        tags, digests = self._catalog.names(image_id), self._catalog.digests(image_id)
        if reference is None:
            if len({known.repository for known in tags}) > 1 and not force:
                raise Conflict(
                    f"conflict: unable to delete {_short(image_id)} (must be forced)"
                    " - image is referenced in multiple repositories"
                )
            going = [*tags, *digests]
        else:
            going = [reference]
            others = [known for known in tags if known != reference]
            if not any(known.repository == reference.repository for known in others):
                # The last tag in a repository takes the digest along under which it was pulled from there.
                going += [known for known in digests if known.repository == reference.repository and known != reference]
        is_last = set(going) >= set(tags) and (reference is None or bool(reference.tag) or not tags)
        if is_last and image_id in in_use and not force:
            raise Conflict(
                f"conflict: unable to delete {_short(image_id)} (must be forced) - image is being used by a container"
            )
        removed = [{"Untagged": known.familiar} for known in going]
        async with self._busy():
            if is_last and image_id not in in_use:
                self._catalog.remove(image_id)
                self._configs.pop(image_id, None)
                removed.append({"Deleted": image_id})
                self._has_garbage = True
            else:
                for known in going:
                    self._catalog.unname(known)
        return removed

    async def image_disk(self, image: Image, *, verified: bool = False) -> ComposedDisk:
        """The disk of the image's layers, composed when it is wanted first; `verified`: with their hash trees.

        Raises `NotFound` when a layer is gone, `InvalidRequest` and `Unsupported` for images that cannot run.
        """
        for layer in image.layers:
            if not layer.squashfs.exists():
                raise NotFound(f"layer {layer.diff_id} is not in the content store: load or pull the image again")
        directory = self._disks / disk_key([layer.diff_id for layer in image.layers], verified=verified)

        def compose() -> ComposedDisk:
            layers = [
                DiskLayer(
                    layer.diff_id,
                    layer.squashfs,
                    self._trees.tree(layer.diff_id, layer.squashfs) if verified else None,
                )
                for layer in image.layers
            ]
            return compose_disk(layers, directory, self._ingest)

        return await asyncio.to_thread(compose)

    async def writable_disk(self, path: Path, size_bytes: int) -> None:
        """Make a container's empty writable layer at `path`; raises as `make_writable_disk` does."""
        await asyncio.to_thread(make_writable_disk, path, size_bytes, self._writable, self._ingest)

    async def volume_disk(self, path: Path, size_bytes: int) -> None:
        """Make an empty volume at `path`, durably; raises as `make_writable_disk` does."""
        await asyncio.to_thread(make_writable_disk, path, size_bytes, self._writable, self._ingest, VOLUME_DIRECTORIES)
        await asyncio.to_thread(sync_file, path)

    def _find(self, name: str) -> tuple[str, Reference | None]:
        """The image's id, and the reference in the catalog if `name` is one and not an id."""
        if name.startswith("sha256:") and name in self._catalog.ids():
            return name, None
        try:
            reference = Reference.parse(name).tagged()
        except InvalidRequest:
            reference = None
        if reference is not None and (found := self._catalog.find(reference)):
            return found, replace(reference, tag=None) if reference.digest else reference
        if match := _IDENTIFIER.fullmatch(name):
            ids = self._catalog.ids(match[1])
            if len(ids) == 1:
                return ids[0], None
            if ids:
                raise NotFound(f"image {name} is not one: {len(ids)} ids begin like that, write more of it")
        raise NotFound(f"image {name} is not here: pull it, or check the name with 'atoll images'")

    def _image(self, image_id: str) -> Image:
        config = self._configs.get(image_id)
        if config is None:
            data = self._blobs.read(image_id, limit_bytes=self._limits.document_bytes)
            config = self._configs[image_id] = parse_config(data)
        layers = (Layer(id_, self._layers.path(id_), self._layers.size_bytes(id_)) for id_ in config.diff_ids)
        return Image(
            id=image_id,
            config=config,
            repo_tags=tuple(name.familiar for name in self._catalog.names(image_id)),
            repo_digests=tuple(name.familiar for name in self._catalog.digests(image_id)),
            layers=tuple(layers),
        )

    async def _make_layer(self, diff_id: str, digest: str) -> None:
        """Make a layer of a blob that is here; who wants the same one meanwhile waits."""
        async with self._making_of(diff_id):
            if self._layers.has(diff_id):
                return
            async with self._converting:
                path = self._blobs.path(digest)
                await consume_file(path, lambda source: self._layers.make(source, diff_id, self._limits))

    async def _fetch_layer(self, diff_id: str, descriptor: Descriptor, chunks: AsyncIterator[bytes]) -> None:
        """Make a layer of a blob while it comes, and keep both."""
        if self._blobs.has(descriptor.digest):
            await self._make_layer(diff_id, descriptor.digest)
            return
        async with self._making_of(diff_id):
            if self._layers.has(diff_id):
                return
            store = partial(
                store_layer,
                blobs=self._blobs,
                layers=self._layers,
                limits=self._limits,
                diff_id=diff_id,
                digest=descriptor.digest,
                size_bytes=descriptor.size,
            )
            await consume(chunks, store)

    def _making_of(self, diff_id: str) -> asyncio.Lock:
        return self._making.setdefault(diff_id, asyncio.Lock())

    @asynccontextmanager
    async def _busy(self) -> AsyncIterator[None]:
        """While anything is under way, files that no image names may be needed; afterwards they are garbage."""
        self._under_way += 1
        try:
            yield
        except BaseException:
            self._has_garbage = True
            raise
        finally:
            self._under_way -= 1
            if self._has_garbage and not self._under_way and (trash := self._sort_out()):
                self._has_garbage = False
                await asyncio.shield(asyncio.to_thread(shutil.rmtree, trash))

    def _sort_out(self) -> Path | None:
        """Move what no image needs into a directory of its own, which may then be deleted at leisure."""
        live = self._catalog.live()
        disks = {disk_key(diff_ids, verified=verified) for diff_ids in live.disks for verified in (False, True)}
        garbage = [self._layers.path(diff_id) for diff_id in self._layers.diff_ids() if diff_id not in live.layers]
        garbage += [self._blobs.path(digest) for digest in self._blobs.digests() if digest not in live.blobs]
        garbage += self._trees.forget_all_but(live.layers)
        garbage += [directory for directory in self._disks.iterdir() if directory.name not in disks]
        if not garbage:
            return None
        trash = Path(tempfile.mkdtemp(dir=self._ingest, prefix="trash-"))
        for number, path in enumerate(garbage):
            path.rename(trash / str(number))
        return trash


def _name_to_give(text: str) -> Reference:
    name = Reference.parse(text)
    if name.digest:
        raise InvalidRequest(f"refusing to create a tag with a digest reference: {text!r}")
    return name.tagged()


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
