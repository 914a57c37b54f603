"""An image as it leaves the store: its manifest, its configuration and its layers' blobs.

Blobs go out as they came. So does the manifest, byte for byte, where the image has one that names blobs that are here;
otherwise one is made, for the same blobs always the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from atoll.errors import AtollError, NotFound
from atoll.image.blobs import BlobStore, digest_of
from atoll.image.compression import decompressed
from atoll.image.limits import Limits
from atoll.image.manifest import parse_manifest
from atoll.image.oci import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, Descriptor, Manifest

CHUNK_BYTES = 1 << 20

_MEDIA_TYPES = ((b"\x1f\x8b", f"{OCI_LAYER}+gzip"), (b"\x28\xb5\x2f\xfd", f"{OCI_LAYER}+zstd"))
_UNNAMED = (b"BZh", b"\xfd7zXZ\0")
"""Compressions that `import` takes and no media type says: such layers go out unpacked."""


@dataclass(frozen=True)
class KnownImage:
    """What the catalog says of an image.

    `documents` are digests, the likeliest manifest first; `layers` pairs diff IDs, bottom first, and their blobs.
    """

    image_id: str
    documents: tuple[str, ...]
    layers: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class OutgoingBlob:
    """Bytes, or the file that has them, which may have to be unpacked on the way."""

    descriptor: Descriptor
    content: bytes | Path
    is_packed: bool = False

    def chunks(self) -> Iterator[bytes]:
        """The bytes of the blob; blocks. Who sends them sees whether they are what the descriptor says."""
        if isinstance(self.content, bytes):
            yield self.content
            return
        with self.content.open("rb", buffering=0) as file:
            source = decompressed(file) if self.is_packed else file
            while data := source.read(CHUNK_BYTES):
                yield data


@dataclass(frozen=True)
class OutgoingImage:
    """All that an image consists of, its layers bottom first."""

    manifest: OutgoingBlob
    config: OutgoingBlob
    layers: tuple[OutgoingBlob, ...]


def outgoing_image(image: KnownImage, blobs: BlobStore, limits: Limits) -> OutgoingImage:
    """What `image` looks like outside; blocks. Raises `NotFound` and `InvalidRequest` for what is gone or damaged."""
    config = blobs.read(image.image_id, limit_bytes=limits.document_bytes)
    for digest in image.documents:
        if digest != image.image_id and (stored := _stored_manifest(image, digest, blobs, limits)) is not None:
            data, manifest = stored
            layers = tuple(OutgoingBlob(layer, blobs.path(layer.digest)) for layer in manifest.layers)
            break
    else:
        layers = tuple(_layer(diff_id, there, blobs) for diff_id, there in image.layers)
        described = Descriptor(media_type=OCI_CONFIG, digest=image.image_id, size=len(config))
        manifest = Manifest(
            schema_version=2,
            media_type=OCI_MANIFEST,
            config=described,
            layers=tuple(layer.descriptor for layer in layers),
        )
        data = msgspec.json.encode(manifest)
    described = Descriptor(media_type=manifest.media_type or OCI_MANIFEST, digest=digest_of(data), size=len(data))
    return OutgoingImage(OutgoingBlob(described, data), OutgoingBlob(manifest.config, config), layers)


def _stored_manifest(image: KnownImage, digest: str, blobs: BlobStore, limits: Limits) -> tuple[bytes, Manifest] | None:
    """The document `digest`, if it is the image's manifest and all that it names is here."""
    try:
        data = blobs.read(digest, limit_bytes=limits.document_bytes)
        manifest = parse_manifest(data, limits=limits)
    except AtollError:
        return None  # damaged: one can be made
    if not isinstance(manifest, Manifest) or manifest.config.digest != image.image_id:
        return None
    # A blob that is here may still be another layer's: only what the catalog says of this one counts.
    if len(manifest.layers) != len(image.layers):
        return None
    fits = all(
        layer.digest in there and blobs.size_bytes(layer.digest) == layer.size
        for layer, (_, there) in zip(manifest.layers, image.layers, strict=True)
    )
    return (data, manifest) if fits else None


def _layer(diff_id: str, there: tuple[str, ...], blobs: BlobStore) -> OutgoingBlob:
    """A layer by one of its blobs: the plain one, if it is here."""
    # A layer's tar is a blob of its diff ID.
    digest = next((digest for digest in (diff_id, *there) if blobs.has(digest)), None)
    if digest is None:
        raise NotFound(f"layer {diff_id} is not here as a blob: remove the image, then load or pull it again")
    path = blobs.path(digest)
    with path.open("rb") as file:
        first = file.read(8)
    if first.startswith(_UNNAMED):
        packed = OutgoingBlob(Descriptor(media_type=OCI_LAYER, digest=diff_id, size=0), path, is_packed=True)
        size = sum(map(len, packed.chunks()))
        return OutgoingBlob(msgspec.structs.replace(packed.descriptor, size=size), path, is_packed=True)
    media_type = next((kind for magic, kind in _MEDIA_TYPES if first.startswith(magic)), OCI_LAYER)
    return OutgoingBlob(Descriptor(media_type=media_type, digest=digest, size=path.stat().st_size), path)
