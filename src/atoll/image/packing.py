"""Layers that are here as a plain tar only, packed for a registry.

Imported and committed layers are such. They are packed while they are pushed and not kept so; the digest of the outcome
is, and a registry that has it already is sent nothing. docs/adr/0011-pushed-layers.md has the reasons and figures.
"""

import hashlib
import tempfile
import threading
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from itertools import chain
from pathlib import Path

from atoll.image.durable import space_errors, write_fully
from atoll.image.feed import Stopped, run_in_thread
from atoll.image.oci import OCI_LAYER, Descriptor
from atoll.image.outgoing import OutgoingBlob
from atoll.store.database import Database

SCHEMA = (
    """CREATE TABLE packed_layer (
        diff_id TEXT PRIMARY KEY,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL
    ) STRICT""",
)

_LEVEL = 4
"""Twice as fast as 6, and two hundredths larger."""
_MEDIA_TYPE = f"{OCI_LAYER}+gzip"


class Packing:
    """Packs plain layers, and remembers in `database` what came out."""

    def __init__(self, database: Database, ingest: Path) -> None:
        """Open the table, after those of `Catalog`; `ingest` is the directory of temporary files."""
        self._database = database
        self._ingest = ingest
        database.migrate(SCHEMA)
        database.execute("DELETE FROM packed_layer WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)")

    def remembered(self, diff_id: str) -> Descriptor | None:
        """What the layer became when it was packed last, if it ever was."""
        query = "SELECT digest, size_bytes FROM packed_layer WHERE diff_id = ?"
        rows = self._database.query(query, (diff_id,))
        return Descriptor(media_type=_MEDIA_TYPE, digest=rows[0][0], size=rows[0][1]) if rows else None

    @asynccontextmanager
    async def packed(self, diff_id: str, layer: OutgoingBlob) -> AsyncIterator[OutgoingBlob]:
        """The layer as gzip, in a file that lasts as long as the block; raises `OutOfSpace`, `InvalidRequest`."""
        is_stopped = threading.Event()
        with space_errors(self._ingest), tempfile.TemporaryDirectory(dir=self._ingest) as scratch:
            path = Path(scratch) / "layer"
            descriptor = await run_in_thread(lambda: _pack(layer, path, is_stopped), is_stopped.set)
            self._database.execute(
                "INSERT INTO packed_layer VALUES (?, ?, ?)"
                " ON CONFLICT DO UPDATE SET digest = excluded.digest, size_bytes = excluded.size_bytes",
                (diff_id, descriptor.digest, descriptor.size),
            )
            yield OutgoingBlob(descriptor, path)


def _pack(layer: OutgoingBlob, path: Path, is_stopped: threading.Event) -> Descriptor:
    hashed = hashlib.sha256()
    size_bytes = 0
    # Neither time nor name are in the header: the same bytes become the same bytes.
    compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    with FileIO(path, "x") as file:
        for chunk in chain(layer.chunks(), (None,)):
            if is_stopped.is_set():
                raise Stopped
            data = compressor.flush() if chunk is None else compressor.compress(chunk)
            hashed.update(data)
            size_bytes += len(data)
            write_fully(file, data)
    return Descriptor(media_type=_MEDIA_TYPE, digest=f"sha256:{hashed.hexdigest()}", size=size_bytes)
