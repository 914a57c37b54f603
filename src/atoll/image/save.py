"""Image archives on the way out: what `docker load`, Podman, skopeo, umoci and our own `load` read.

By default an archive is an OCI layout and a docker-archive at once, as those of Docker since version 25: the same
blobs, named by `index.json` and by `manifest.json`. Nothing is copied on the way from the store to who reads.
https://github.com/opencontainers/image-spec/blob/main/image-layout.md and
https://github.com/moby/moby/blob/master/image/spec/v1.2.md.
"""

import hashlib
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import msgspec
from msgspec import Struct, structs

from atoll.errors import InvalidRequest
from atoll.image.blobs import digest_of
from atoll.image.oci import OCI_INDEX, Descriptor, Index
from atoll.image.outgoing import OutgoingBlob, OutgoingImage
from atoll.image.reference import Reference

_BLOCK = 512
_ARCHIVE_END = bytes(2 * _BLOCK)
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'


class ArchiveFormat(Enum):
    """What an archive is: an OCI layout, a docker-archive, or both."""

    BOTH = "both"
    DOCKER = "docker"
    OCI = "oci"


class DockerEntry(Struct, frozen=True, rename="pascal"):
    """One image in a docker-archive's manifest.json: names of members, and of the image."""

    config: str
    repo_tags: tuple[str, ...] | None = None
    layers: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Member:
    name: str
    blob: OutgoingBlob


def archive_chunks(
    images: Iterable[tuple[OutgoingImage, tuple[Reference, ...]]], archive_format: ArchiveFormat
) -> Iterator[bytes]:
    """The archive of `images`, each with the names that it shall have; blocks while it reads.

    Raises `InvalidRequest` when a blob turns out to be damaged: what came before is not an archive.
    """
    members: dict[str, _Member] = {}
    descriptors: list[Descriptor] = []
    entries: list[DockerEntry] = []
    for image, names in images:
        config = _member(image.config, archive_format, "json")
        layers = [_member(layer, archive_format, "tar") for layer in image.layers]
        # A docker-archive has no place for the manifest.
        documents = (
            [config]
            if archive_format is ArchiveFormat.DOCKER
            else [_member(image.manifest, archive_format, "json"), config]
        )
        members |= {member.name: member for member in (*documents, *layers)}
        described = image.manifest.descriptor
        # A name each, as Docker: who reads the layout finds an image by any of them.
        descriptors += [structs.replace(described, annotations=_annotations(name)) for name in names] or [described]
        tags = tuple(name.familiar for name in names) or None
        entries.append(DockerEntry(config.name, tags, tuple(layer.name for layer in layers)))
    tables: dict[str, bytes] = {}
    if archive_format is not ArchiveFormat.DOCKER:
        index = Index(schema_version=2, media_type=OCI_INDEX, manifests=tuple(descriptors))
        tables |= {"oci-layout": _LAYOUT, "index.json": msgspec.json.encode(index)}
        yield _header("blobs/", tarfile.DIRTYPE)
        yield _header("blobs/sha256/", tarfile.DIRTYPE)
    if archive_format is not ArchiveFormat.OCI:
        tables["manifest.json"] = msgspec.json.encode(entries)
    # First, so that who looks into the stream soon knows what it is.
    for name, data in tables.items():
        described = Descriptor(media_type="", digest=digest_of(data), size=len(data))
        yield from _file(_Member(name, OutgoingBlob(described, data)))
    for member in members.values():
        yield from _file(member)
    yield _ARCHIVE_END


def _member(blob: OutgoingBlob, archive_format: ArchiveFormat, suffix: str) -> _Member:
    digits = blob.descriptor.digest.removeprefix("sha256:")
    return _Member(f"{digits}.{suffix}" if archive_format is ArchiveFormat.DOCKER else f"blobs/sha256/{digits}", blob)


def _annotations(name: Reference) -> dict[str, str]:
    """An image's name as containerd writes it, and its tag for those who know no repositories."""
    return {"io.containerd.image.name": str(name), "org.opencontainers.image.ref.name": name.tag or ""}


def _file(member: _Member) -> Iterator[bytes]:
    wanted, size_bytes = member.blob.descriptor.digest, member.blob.descriptor.size
    yield _header(member.name, tarfile.REGTYPE, size_bytes)
    hashed = hashlib.sha256()
    left = size_bytes
    for chunk in member.blob.chunks():
        left -= len(chunk)
        hashed.update(chunk)
        if left < 0:
            break
        yield chunk
    if left or f"sha256:{hashed.hexdigest()}" != wanted:
        raise InvalidRequest(f"blob {wanted} was damaged on disk: remove the image, then load or pull it again")
    yield bytes(-size_bytes % _BLOCK)


def _header(name: str, kind: bytes, size_bytes: int = 0) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size_bytes
    member.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
    return member.tobuf(tarfile.GNU_FORMAT)
