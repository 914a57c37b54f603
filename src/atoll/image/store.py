"""The content store: images come in by load, import and pull, and go out as disks.

Files first, then the entry in the catalog: a crash leaves at most files that nobody names, which the next start removes
(`garbage.py`). One engine owns a store at a time.
"""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from weakref import WeakValueDictionary

from atoll.errors import Conflict, InvalidRequest, NotFound
from atoll.image.archive import ArchivedImage, read_archive
from atoll.image.blobs import BlobStore
from atoll.image.catalog import Catalog
from atoll.image.commit import Commit, committed_config
from atoll.image.disk import ComposedDisk
from atoll.image.download import ChunksFrom, Downloads
from atoll.image.durable import sync_file
from atoll.image.feed import consume, consume_file
from atoll.image.garbage import Garbage
from atoll.image.image import Image, Layer
from atoll.image.image_disk import image_disk
from atoll.image.layers import LayerStore
from atoll.image.limits import DEFAULT_LIMITS, Limits
from atoll.image.manifest import HOST, parse_config, parse_platform
from atoll.image.names import Names, name_to_give, short_id
from atoll.image.oci import Descriptor, ImageConfig
from atoll.image.origins import Origins
from atoll.image.outgoing import KnownImage, outgoing_image
from atoll.image.packing import Packing
from atoll.image.progress import Report
from atoll.image.pull import fetch_layers, resolve, together
from atoll.image.push import Pusher
from atoll.image.reference import Reference
from atoll.image.registry import ANONYMOUS, DEFAULT_REGISTRIES, Credentials, Registries, Scheme, open_sources
from atoll.image.rootfs import check_changes, imported_config, store_layer
from atoll.image.save import ArchiveFormat, archive_chunks
from atoll.image.tarstream import Source
from atoll.image.upkeep import Upkeep
from atoll.image.verity import TreeStore
from atoll.image.writable import VOLUME_DIRECTORIES, make_writable_disk
from atoll.store.database import Database

Removed = list[dict[str, str]]

_CONVERSIONS = 2
"""Layers that are made at once from blobs that are here: one for each of a small machine's CPUs."""


class ContentStore:
    """Everything below `root`: blobs, layers, composed disks, formatted writable disks."""

    def __init__(
        self,
        root: Path,
        database: Database,
        *,
        limits: Limits = DEFAULT_LIMITS,
        registries: Registries = DEFAULT_REGISTRIES,
    ) -> None:
        """Open the store, made when it is missing, and sweep what a crash has left."""
        self._limits = limits
        self._registries = registries
        self._ingest = root / "ingest"
        self._disks = root / "disks"
        self._writable = root / "writable"
        shutil.rmtree(self._ingest, ignore_errors=True)
        for directory in (self._ingest, self._disks, self._writable):
            directory.mkdir(parents=True, exist_ok=True)
        root.chmod(0o700)
        sync_file(root.parent)
        sync_file(root)
        self._blobs = BlobStore(root / "blobs", self._ingest)
        self._layers = LayerStore(root / "layers", self._ingest)
        self._trees = TreeStore(root / "verity", self._ingest, database)
        self._downloads = Downloads(root / "partial", self._blobs, self._layers, limits)
        self._catalog = Catalog(database)
        self._names = Names(self._catalog)
        packing = Packing(database, self._ingest)
        self._origins = Origins(database)
        self._pusher = Pusher(registries, packing, self._origins)
        self._configs: dict[str, ImageConfig] = {}
        self._making: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._converting = asyncio.Semaphore(_CONVERSIONS)
        self._garbage = Garbage(self._catalog, self._blobs, self._layers, self._trees, self._disks, self._ingest)
        self._garbage.sweep()
        self.upkeep = Upkeep(
            self._catalog,
            self._blobs,
            self._layers,
            self._trees,
            self._garbage,
            limits,
            disks=self._disks,
            writable=self._writable,
            ingest=self._ingest,
        )

    async def load(self, chunks: AsyncIterator[bytes]) -> list[str]:
        """Load every image of an archive (docker-archive or OCI layout, compressed or not) and return their names.

        The id stands for an image without a name. Raises `InvalidRequest`, `NotFound`, `OutOfSpace`.
        """

        def read(source: Source) -> list[ArchivedImage]:
            with tempfile.TemporaryDirectory(dir=self._ingest) as scratch:
                return read_archive(source, Path(scratch), self._blobs, self._limits)

        async with self._garbage.busy():
            images = await consume(chunks, read)
            pairs = dict(pair for image in images for pair in image.layers)
            await together([self._make_layer(diff_id, digest) for diff_id, digest in pairs.items()])
            for image in images:
                await self._enter(
                    image.image_id,
                    diff_ids=image.config.diff_ids,
                    documents=image.documents,
                    layer_blobs=image.layers,
                    names=image.names,
                )
        return [name for image in images for name in [n.familiar for n in image.names] or [image.image_id]]

    async def save(
        self, names: Sequence[str], archive_format: ArchiveFormat = ArchiveFormat.BOTH
    ) -> AsyncGenerator[bytes, None]:
        """An archive of the images that `names` mean, with those of the names that have a tag, piece by piece.

        A repository alone stands for all its tags. Raises `NotFound` before the first piece; `InvalidRequest`, when a
        blob was damaged, also later.
        """
        chosen: dict[str, list[Reference]] = {}
        for name in names:
            for image_id, reference in self._names.find_all(name):
                chosen.setdefault(image_id, []).extend([reference] if reference is not None else [])
        async with self._garbage.busy():
            planned = []
            for image_id, references in chosen.items():
                known = self._known(image_id, references)
                image = await asyncio.to_thread(outgoing_image, known, self._blobs, self._limits)
                planned.append((image, tuple(dict.fromkeys(one for one in references if one.tag))))
            chunks = archive_chunks(planned, archive_format)
            while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
                yield chunk

    async def import_(self, chunks: AsyncIterator[bytes], reference: str | None, changes: Sequence[str] = ()) -> Image:
        """Make an image of one layer from the tar of a root filesystem; `changes` are Dockerfile instructions.

        Raises `InvalidRequest`, `OutOfSpace`.
        """
        names = [name_to_give(reference)] if reference else []
        check_changes(changes)
        async with self._garbage.busy():
            layer = await consume(chunks, lambda source: store_layer(source, self._blobs, self._layers, self._limits))
            if not layer.entries:
                raise InvalidRequest("the archive is empty: a root filesystem is needed")
            config = imported_config(layer.diff_id, changes)
            image_id = await asyncio.to_thread(self._blobs.add, config)
            await self._enter(
                image_id,
                diff_ids=(layer.diff_id,),
                documents=(image_id,),
                layer_blobs=((layer.diff_id, layer.blob),),
                names=names,
            )
        return self._image(image_id)

    async def commit(
        self, parent_id: str, chunks: AsyncIterator[bytes], reference: str | None, commit: Commit
    ) -> Image:
        """Make an image of another one and the tar of a layer above it; raises `NotFound`, and as `import_`."""
        names = [name_to_give(reference)] if reference else []
        check_changes(commit.changes)
        parent = self._image(parent_id).config
        async with self._garbage.busy():
            there = self._known_blobs(parent.diff_ids)
            layer = await consume(chunks, lambda source: store_layer(source, self._blobs, self._layers, self._limits))
            config, diff_ids = committed_config(parent, layer, commit)
            image_id = await asyncio.to_thread(self._blobs.add, config)
            await self._enter(
                image_id,
                diff_ids=diff_ids,
                documents=(image_id,),
                layer_blobs=[*there, (layer.diff_id, layer.blob)] if layer.entries else there,
                names=names,
            )
            if not layer.entries:
                self._garbage.expect()
        return self._image(image_id)

    async def pull(
        self,
        reference: str,
        platform: str | None = None,
        report: Report = lambda line: None,
        *,
        scheme: Scheme = Scheme.AUTO,
        credentials: Mapping[str, Credentials] | None = None,
    ) -> Image:
        """Bring an image from its registry; `report` is told how it goes, in lines of Docker's progress stream.

        `credentials` are by the host of a registry or mirror. Raises `NotFound`, `RegistryFailed`, `InvalidRequest`
        (a hostile or damaged layer), `OutOfSpace`.
        """
        name = Reference.parse(reference).tagged()
        wanted = parse_platform(platform) if platform else HOST
        async with self._garbage.busy(), open_sources(name, self._registries, scheme, credentials) as sources:
            report({"status": f"Pulling from {name.path}", "id": name.digest or name.tag})
            pulled = await resolve(sources, name, wanted, self._limits)
            before = self._catalog.find(name)
            there = self._known_blobs(diff_id for diff_id, _ in pulled.layers)
            await fetch_layers(sources, pulled, self._has_layer, self._fetch_layer, self._downloads, report)
            documents = [await asyncio.to_thread(self._blobs.add, document) for document in pulled.documents]
            came = [(diff_id, layer.digest) for diff_id, layer in pulled.layers]
            await self._enter(
                pulled.image_id,
                diff_ids=pulled.config.diff_ids,
                documents=documents,
                layer_blobs=[pair for pair in (*there, *came) if self._blobs.has(pair[1])],
                names=(replace(name, digest=None), replace(name, tag=None, digest=pulled.digest)),
            )
            self._origins.add(name, [layer.digest for _, layer in pulled.layers])
        report({"status": f"Digest: {pulled.digest}"})
        outcome = "Image is up to date" if before == pulled.image_id else "Downloaded newer image"
        report({"status": f"Status: {outcome} for {name.familiar}"})
        return self._image(pulled.image_id)

    async def push(
        self,
        name: str,
        report: Report = lambda line: None,
        *,
        scheme: Scheme = Scheme.AUTO,
        credentials: Credentials = ANONYMOUS,
    ) -> None:
        """Put an image into the repository that its name says, or all of a repository that is named without a tag.

        Raises `NotFound` when there is no such name here, `AccessDenied`, `RegistryFailed`, `OutOfSpace`.
        """
        reference = Reference.parse(name)
        if reference.digest:
            raise InvalidRequest(f"cannot push a digest reference: give {name!r} a tag")
        tags = self._catalog.tags(reference.repository)
        chosen = [(tag, image_id) for tag, image_id in tags if reference.tag in (None, tag.tag)]
        if not chosen:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar}")
        async with self._garbage.busy():
            report({"status": f"The push refers to repository [{reference.repository}]"})
            for tag, image_id in chosen:
                known = self._known(image_id, [tag])
                image = await asyncio.to_thread(outgoing_image, known, self._blobs, self._limits)
                digest = await self._pusher.push(
                    tag,
                    image,
                    [diff_id for diff_id, _ in known.layers],
                    report,
                    may_pack=image.manifest.descriptor.digest not in known.documents,
                    scheme=scheme,
                    credentials=credentials,
                )
                # The image may have been removed meanwhile.
                if image_id in self._catalog.ids():
                    self._catalog.name(replace(tag, tag=None, digest=digest), image_id)

    async def list(self) -> list[Image]:
        """Every image, those that came last first."""
        return [self._image(image_id) for image_id in self._catalog.ids()]

    async def get(self, name: str) -> Image:
        """The image that a name, a digest, an id or the beginning of one means; raises `NotFound`."""
        return self._image(self._names.find(name)[0])

    def has(self, image_id: str) -> bool:
        """Whether the image with this full id is here."""
        return image_id in self._catalog.ids()

    async def tag(self, source: str, name: str) -> None:
        """Let `name` mean the image that `source` means; raises `NotFound`, `InvalidRequest`."""
        image_id, _ = self._names.find(source)
        self._catalog.name(name_to_give(name), image_id)

    async def remove(self, name: str, *, force: bool = False, in_use: Set[str] = frozenset()) -> Removed:
        """Take a name away, and the image with its last; returns what Docker does, `Untagged` and `Deleted` in order.

        Images whose id is in `in_use` keep their layers: `Conflict`, or with `force` only names go. As `Names.leaving`.
        """
        leaving = self._names.leaving(name, force=force)
        image_id = leaving.image_id
        if leaving.is_last and image_id in in_use and not force:
            raise Conflict(
                f"conflict: unable to delete {short_id(image_id)} (must be forced) - image is being used by a container"
            )
        removed = [{"Untagged": known.familiar} for known in leaving.names]
        async with self._garbage.busy():
            if leaving.is_last and image_id not in in_use:
                self._catalog.remove(image_id)
                self._configs.pop(image_id, None)
                removed.append({"Deleted": image_id})
                self._garbage.expect()
            else:
                for known in leaving.names:
                    self._catalog.unname(known)
        return removed

    async def image_disk(self, image: Image, *, verified: bool = False) -> ComposedDisk:
        """The disk of the image's layers, composed when it is wanted first; `verified`: with their hash trees.

        Raises `NotFound` when a layer is gone, `InvalidRequest` and `Unsupported` for images that cannot run.
        """
        async with self._garbage.busy():
            return await asyncio.to_thread(
                image_disk, image, self._disks, self._trees if verified else None, self._ingest
            )

    async def writable_disk(self, path: Path, size_bytes: int) -> None:
        """Make a container's empty writable layer at `path`; raises as `make_writable_disk` does."""
        await asyncio.to_thread(make_writable_disk, path, size_bytes, self._writable, self._ingest)

    async def volume_disk(self, path: Path, size_bytes: int) -> None:
        """Make an empty volume at `path`, durably; raises as `make_writable_disk` does."""
        await asyncio.to_thread(make_writable_disk, path, size_bytes, self._writable, self._ingest, VOLUME_DIRECTORIES)
        await asyncio.to_thread(sync_file, path)

    async def _enter(
        self,
        image_id: str,
        *,
        diff_ids: Sequence[str],
        documents: Iterable[str],
        layer_blobs: Iterable[tuple[str, str]],
        names: Iterable[Reference],
    ) -> None:
        """Add an image to the catalog, after its files are durable by name: another pull may just have made one."""
        await asyncio.to_thread(self._blobs.make_durable)
        await asyncio.to_thread(self._layers.make_durable)
        self._catalog.add(image_id, diff_ids=diff_ids, documents=documents, layer_blobs=layer_blobs, names=names)

    def _known_blobs(self, diff_ids: Iterable[str]) -> Sequence[tuple[str, str]]:
        """Layers with the blobs that they came as; of an image that may be removed meanwhile."""
        return [(diff_id, blob) for diff_id in diff_ids for blob in self._catalog.layer_blobs(diff_id)]

    def _known(self, image_id: str, references: Sequence[Reference]) -> KnownImage:
        """What is known of an image; the manifest that it has in the repositories of `references` counts most."""
        repositories = {reference.repository for reference in references}
        here = [known.digest for known in self._catalog.digests(image_id) if known.repository in repositories]
        documents = sorted(self._catalog.documents(image_id), key=lambda digest: digest not in here)
        diff_ids = self._catalog.diff_ids(image_id)
        return KnownImage(image_id, tuple(documents), tuple((id_, self._catalog.layer_blobs(id_)) for id_ in diff_ids))

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

    async def _fetch_layer(self, diff_id: str, descriptor: Descriptor, chunks: ChunksFrom) -> None:
        """Make a layer of a blob while it comes, and keep both."""
        async with self._making_of(diff_id), self._downloads.alone(descriptor.digest):
            if self._has_layer(diff_id, descriptor.digest):
                return
            if not self._blobs.has(descriptor.digest):
                await self._downloads.fetch(diff_id, descriptor, chunks)
                return
        await self._make_layer(diff_id, descriptor.digest)

    def _has_layer(self, diff_id: str, *blobs: str) -> bool:
        """Whether the layer is here, and a blob to save and mend it from: one of `blobs`, or one that is known."""
        return self._layers.has(diff_id) and any(map(self._blobs.has, (*blobs, *self._catalog.layer_blobs(diff_id))))

    def _making_of(self, diff_id: str) -> asyncio.Lock:
        return self._making.setdefault(diff_id, asyncio.Lock())
