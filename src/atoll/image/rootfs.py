"""`import`: a root filesystem as a tar becomes an image of one layer, with a configuration of our own making."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from atoll.image.blobs import BlobStore, BlobWriter
from atoll.image.changes import apply_changes
from atoll.image.layers import LayerStore
from atoll.image.limits import Limits
from atoll.image.manifest import HOST
from atoll.image.oci import Execution, History, ImageConfig, RootFilesystem
from atoll.image.tarstream import Source


@dataclass(frozen=True)
class StoredLayer:
    """A layer in the store: its diff ID and the blob that it was made of."""

    diff_id: str
    blob: str
    entries: int


def store_layer(source: Source, blobs: BlobStore, layers: LayerStore, limits: Limits) -> StoredLayer:
    """Keep the tar in `source` as a blob and make a layer of it, in one pass; blocks. Both are kept, or neither is."""
    with blobs.writer(limit_bytes=limits.blob_bytes) as writer:
        written = layers.make(_Copying(source, writer), None, limits)
    return StoredLayer(written.diff_id, writer.digest, written.entries)


class _Copying:
    """`source`, with everything that is read written to `writer` as well."""

    def __init__(self, source: Source, writer: BlobWriter) -> None:
        self._source = source
        self._writer = writer

    def read(self, size: int, /) -> bytes:
        data = self._source.read(size)
        self._writer.write(data)
        return data


def imported_config(diff_id: str, changes: Sequence[str], comment: str = "") -> bytes:
    """The configuration of an imported image; raises `InvalidRequest` for a wrong change."""
    created = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    config = ImageConfig(
        architecture=HOST.architecture,
        os=HOST.os,
        created=created,
        config=apply_changes(Execution(), changes),
        rootfs=RootFilesystem(type="layers", diff_ids=(diff_id,)),
        history=(History(created=created, comment=comment or "Imported from -"),),
    )
    return msgspec.json.encode(config)


def check_changes(changes: Sequence[str]) -> None:
    """Raise `InvalidRequest` for a wrong change, before anything is read."""
    apply_changes(Execution(), changes)
