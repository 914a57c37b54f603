"""Image archives: what `docker save` and `skopeo` write, docker-archive and OCI layout, read from a stream.

Members come in any order and name each other, so they go to files first, hashed on the way; those that an image needs
are then put into the content store. https://github.com/opencontainers/image-spec/blob/main/image-layout.md and
https://github.com/moby/moby/blob/master/image/spec/v1.2.md ("Combined Image JSON + Filesystem Changeset Format").
"""

import hashlib
import posixpath
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from io import FileIO
from pathlib import Path

import msgspec

from atoll.errors import AtollError, InvalidRequest
from atoll.image.blobs import BlobStore
from atoll.image.compression import decompressed
from atoll.image.durable import space_errors, write_fully
from atoll.image.limits import Limits
from atoll.image.manifest import HOST, choose, parse_config, parse_manifest, runs_on
from atoll.image.oci import ImageConfig, Index, Manifest
from atoll.image.reference import Reference
from atoll.image.save import DockerEntry
from atoll.image.tarstream import Kind, Source, TarReader, printable

_CHUNK = 1 << 20
_MOST_MEMBERS = 50_000
_DOCKER = "manifest.json"
_LAYOUT = "index.json"
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")


@dataclass(frozen=True)
class ArchivedImage:
    """An image in an archive, its documents in the content store; `layers` pairs diff IDs and blobs, bottom first."""

    image_id: str
    config: ImageConfig
    layers: tuple[tuple[str, str], ...]
    documents: tuple[str, ...]
    names: tuple[Reference, ...]


@dataclass(frozen=True)
class _File:
    """A member's content: where it lies, and its digest."""

    path: Path
    digest: str


@dataclass
class _Members:
    files: dict[str, _File] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> _File:
        """The file called `name`, through the links that old versions of Docker wrote; raises `InvalidRequest`."""
        here = posixpath.normpath(name)
        for _ in range(10):
            if here in self.files:
                return self.files[here]
            if here not in self.links:
                break
            here = self.links[here]
        raise InvalidRequest(f"the image archive is not whole: {name!r} is not in it")


def read_archive(source: Source, scratch: Path, blobs: BlobStore, limits: Limits) -> list[ArchivedImage]:
    """Read the images in the archive `source`, compressed or not; blocks. Files lie in `scratch` for the while.

    Every blob that they need is in `blobs` afterwards. Raises `InvalidRequest` for what is no image archive,
    or a damaged one; `NotFound` when it has no image for our platform.
    """
    with space_errors(scratch):
        members = _read_members(source, scratch, limits)
    if _DOCKER in members.files:
        documents = _layout_documents(members, limits)
        return [_docker_image(members, entry, documents, blobs, limits) for entry in _docker_images(members, limits)]
    if _LAYOUT in members.files:
        return list(_layout_images(members, blobs, limits))
    raise InvalidRequest(
        "this is no image archive: it has neither manifest.json nor index.json"
        " (a root filesystem is brought in with 'atoll image import')"
    )


def _read_members(source: Source, scratch: Path, limits: Limits) -> _Members:
    members = _Members()
    reader = TarReader(decompressed(source))
    for number, entry in enumerate(reader):
        if number >= _MOST_MEMBERS:
            raise InvalidRequest(f"this is no image archive: it has more than {_MOST_MEMBERS} members")
        name = _member_name(entry.path)
        if entry.kind is Kind.FILE:
            if entry.pieces is not None:
                raise InvalidRequest(f"the image archive is malformed: {name!r} is a sparse file")
            members.files[name] = _keep(reader, scratch / str(number), limits)
            members.links.pop(name, None)
        elif entry.kind is Kind.SYMLINK:
            target = posixpath.join(posixpath.dirname(name), entry.link.decode("utf-8", "surrogateescape"))
            members.links[name] = posixpath.normpath(target)
        elif entry.kind is Kind.HARD_LINK:
            members.links[name] = _member_name(entry.link)
        elif entry.kind is not Kind.DIRECTORY:
            raise InvalidRequest(f"the image archive is malformed: {name!r} is a {entry.kind.value}")
    reader.drain()
    return members


def _member_name(path: bytes) -> str:
    if path.startswith(b"/") or b".." in path.split(b"/") or b"\0" in path:
        raise InvalidRequest(f"the archive is refused: entry {printable(path)}: the path leads out of the archive")
    return posixpath.normpath(path.decode("utf-8", "surrogateescape"))


def _keep(reader: TarReader, path: Path, limits: Limits) -> _File:
    size_bytes = 0
    digest = hashlib.sha256()
    with FileIO(path, "x") as file:
        while data := reader.read(_CHUNK):
            size_bytes += len(data)
            if size_bytes > limits.blob_bytes:
                raise InvalidRequest(f"a blob in the archive is larger than the {limits.blob_bytes} bytes it may have")
            digest.update(data)
            write_fully(file, data)
    return _File(path, f"sha256:{digest.hexdigest()}")


def _docker_images(members: _Members, limits: Limits) -> tuple[DockerEntry, ...]:
    try:
        data = _document(members, _DOCKER, limits)
        return msgspec.json.decode(data, type=tuple[DockerEntry, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the image archive is malformed: manifest.json: {error}") from error


def _docker_image(
    members: _Members,
    entry: DockerEntry,
    documents: dict[tuple[str, ...], tuple[_File, ...]],
    blobs: BlobStore,
    limits: Limits,
) -> ArchivedImage:
    config, layers = members.find(entry.config), [members.find(layer) for layer in entry.layers or ()]
    names = tuple(Reference.parse(name).tagged() for name in entry.repo_tags or ())
    manifest = documents.get((config.digest, *(layer.digest for layer in layers)), ())
    return _archived(members, config, layers, manifest, names, blobs, limits)


def _layout_documents(members: _Members, limits: Limits) -> dict[tuple[str, ...], tuple[_File, ...]]:
    """The manifests of an archive that is both kinds, by the digests of configuration and layers."""
    found: dict[tuple[str, ...], tuple[_File, ...]] = {}
    with suppress(AtollError):  # nothing hangs on it: the image is whole without
        for _, documents, manifest in _manifests(members, limits) if _LAYOUT in members.files else ():
            found[manifest.config.digest, *(layer.digest for layer in manifest.layers)] = documents
    return found


def _layout_images(members: _Members, blobs: BlobStore, limits: Limits) -> Iterator[ArchivedImage]:
    # Of one manifest there may be several entries, one for each name.
    images: dict[str, ArchivedImage] = {}
    for annotations, documents, manifest in _manifests(members, limits):
        layers = [_blob(members, layer.digest) for layer in manifest.layers]
        config = _blob(members, manifest.config.digest)
        names = _layout_names(annotations)
        image = _archived(members, config, layers, documents, names, blobs, limits)
        if (same := images.get(documents[-1].digest)) is not None:
            image = replace(image, names=tuple(dict.fromkeys((*same.names, *names))))
        images[documents[-1].digest] = image
    yield from images.values()


def _manifests(members: _Members, limits: Limits) -> Iterator[tuple[dict[str, str], tuple[_File, ...], Manifest]]:
    """The images for our platform that index.json has: annotations of its entry, documents, manifest."""
    index = parse_manifest(_document(members, _LAYOUT, limits), limits=limits)
    if not isinstance(index, Index):
        raise InvalidRequest("the image archive is malformed: index.json is no image index")
    ours = [entry for entry in index.manifests if entry.platform is None or runs_on(entry.platform, HOST)]
    for descriptor in ours or [choose(index)]:
        annotations = descriptor.annotations or {}
        documents = []
        while True:
            documents.append(_blob(members, descriptor.digest))
            manifest = parse_manifest(_document(members, _blob_name(descriptor.digest), limits), limits=limits)
            if isinstance(manifest, Manifest):
                break
            if len(documents) > 4:
                raise InvalidRequest("the image archive is malformed: its indexes are nested too deeply")
            descriptor = choose(manifest)
        yield annotations, tuple(documents), manifest


def _layout_names(annotations: dict[str, str]) -> tuple[Reference, ...]:
    """The name that an index's entry carries: containerd's, or a reference; a tag alone names no repository."""
    for key in _NAME_ANNOTATIONS:
        name = annotations.get(key, "")
        if ":" in name or "/" in name:
            return (Reference.parse(name).tagged(),)
    return ()


def _archived(
    members: _Members,
    config_file: _File,
    layers: list[_File],
    documents: tuple[_File, ...],
    names: tuple[Reference, ...],
    blobs: BlobStore,
    limits: Limits,
) -> ArchivedImage:
    config = parse_config(_read(config_file, limits))
    if len(config.diff_ids) != len(layers):
        raise InvalidRequest(
            f"the image archive is malformed: its configuration names {len(config.diff_ids)} layers"
            f" and its manifest {len(layers)}"
        )
    if len(layers) > limits.layers:
        raise InvalidRequest(f"the image has {len(layers)} layers: {limits.layers} is the most that can be run")
    for file in (config_file, *documents, *layers):
        blobs.adopt(file.path, file.digest)
    return ArchivedImage(
        image_id=config_file.digest,
        config=config,
        layers=tuple(zip(config.diff_ids, (layer.digest for layer in layers), strict=True)),
        documents=tuple(file.digest for file in (config_file, *documents)),
        names=names,
    )


def _blob_name(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _blob(members: _Members, digest: str) -> _File:
    """A blob of an OCI layout, which must be what its name says."""
    file = members.find(_blob_name(digest))
    if file.digest != digest:
        raise InvalidRequest(f"blob {digest} in the archive is not what it claims to be: its bytes have {file.digest}")
    return file


def _document(members: _Members, name: str, limits: Limits) -> bytes:
    return _read(members.find(name), limits)


def _read(file: _File, limits: Limits) -> bytes:
    if file.path.stat().st_size > limits.document_bytes:
        raise InvalidRequest(f"the image archive is malformed: a document has more than {limits.document_bytes} bytes")
    return file.path.read_bytes()
