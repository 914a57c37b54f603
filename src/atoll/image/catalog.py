"""What the store knows about its images, in SQLite: names, digests, and what each image keeps alive."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from atoll.image.reference import Reference
from atoll.store.database import Database

SCHEMA = (
    """CREATE TABLE image (
        id TEXT PRIMARY KEY,
        added_at REAL NOT NULL
    ) STRICT""",
    """CREATE TABLE image_layer (
        image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        position INTEGER NOT NULL,
        diff_id TEXT NOT NULL,
        PRIMARY KEY (image_id, position)
    ) STRICT""",
    # The image's documents: configuration, manifest, index.
    """CREATE TABLE image_document (
        image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        digest TEXT NOT NULL,
        PRIMARY KEY (image_id, digest)
    ) STRICT""",
    # The blobs that unpack to a layer, as they came: plain, or in one compression or another.
    """CREATE TABLE layer_blob (
        diff_id TEXT NOT NULL,
        digest TEXT NOT NULL,
        PRIMARY KEY (diff_id, digest)
    ) STRICT""",
    """CREATE TABLE image_name (
        repository TEXT NOT NULL,
        tag TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        PRIMARY KEY (repository, tag)
    ) STRICT""",
    # Under which digests (of a manifest or an index) registries have the image.
    """CREATE TABLE image_digest (
        repository TEXT NOT NULL,
        digest TEXT NOT NULL,
        image_id TEXT NOT NULL REFERENCES image ON DELETE CASCADE,
        PRIMARY KEY (repository, digest)
    ) STRICT""",
    # The SHA-256 of a layer's squashfs, taken soon after it was made: what `check` holds it to.
    """CREATE TABLE layer_checksum (
        diff_id TEXT PRIMARY KEY,
        sha256 TEXT NOT NULL
    ) STRICT""",
)


@dataclass(frozen=True)
class Live:
    """What images need; everything else in the store is garbage."""

    layers: frozenset[str]
    blobs: frozenset[str]
    disks: frozenset[tuple[str, ...]]
    """The diff IDs, bottom first, of every image."""


class Catalog:
    """The tables of the image package in `database`."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate(SCHEMA)

    def add(
        self,
        image_id: str,
        *,
        diff_ids: Sequence[str],
        documents: Iterable[str],
        layer_blobs: Iterable[tuple[str, str]],
        names: Iterable[Reference],
    ) -> None:
        """Enter an image and its names, all or nothing; a name that meant another image means this one now."""
        with self._database.transaction():
            self._insert("image", image_id, time.time())
            for position, diff_id in enumerate(diff_ids):
                self._insert("image_layer", image_id, position, diff_id)
            for digest in documents:
                self._insert("image_document", image_id, digest)
            for diff_id, digest in layer_blobs:
                self._insert("layer_blob", diff_id, digest)
            for name in names:
                self.name(name, image_id)

    def name(self, reference: Reference, image_id: str) -> None:
        """Let `reference` (with a tag, a digest or both) mean the image."""
        values = "VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET image_id = excluded.image_id"
        if reference.tag:
            row = (reference.repository, reference.tag, image_id)
            self._database.execute(f"INSERT INTO image_name {values}", row)
        if reference.digest:
            row = (reference.repository, reference.digest, image_id)
            self._database.execute(f"INSERT INTO image_digest {values}", row)

    def _insert(self, table: str, *row: object) -> None:
        """Add `row`, unless it is there."""
        places = ", ".join("?" * len(row))
        self._database.execute(f"INSERT INTO {table} VALUES ({places}) ON CONFLICT DO NOTHING", row)

    def find(self, reference: Reference) -> str | None:
        """The id of the image that `reference` means; a digest counts more than a tag."""
        if reference.digest:
            query = "SELECT image_id FROM image_digest WHERE repository = ? AND digest = ?"
            rows = self._database.query(query, (reference.repository, reference.digest))
        else:
            query = "SELECT image_id FROM image_name WHERE repository = ? AND tag = ?"
            rows = self._database.query(query, (reference.repository, reference.tagged().tag))
        return rows[0][0] if rows else None

    def ids(self, prefix: str = "") -> list[str]:
        """Ids of images, those added last first; `prefix` is lower-case hexadecimal digits, without the algorithm."""
        query = "SELECT id FROM image WHERE substr(id, 8, ?) = ? ORDER BY added_at DESC, id"
        return [row[0] for row in self._database.query(query, (len(prefix), prefix))]

    def names(self, image_id: str) -> list[Reference]:
        """The image's names with tags."""
        query = "SELECT repository, tag FROM image_name WHERE image_id = ? ORDER BY repository, tag"
        return [_reference(row[0], tag=row[1]) for row in self._database.query(query, (image_id,))]

    def digests(self, image_id: str) -> list[Reference]:
        """The image's names with digests."""
        query = "SELECT repository, digest FROM image_digest WHERE image_id = ? ORDER BY repository, digest"
        return [_reference(row[0], digest=row[1]) for row in self._database.query(query, (image_id,))]

    def unname(self, reference: Reference) -> None:
        """Forget a name."""
        if reference.digest:
            statement = "DELETE FROM image_digest WHERE repository = ? AND digest = ?"
            self._database.execute(statement, (reference.repository, reference.digest))
        else:
            statement = "DELETE FROM image_name WHERE repository = ? AND tag = ?"
            self._database.execute(statement, (reference.repository, reference.tag))

    def remove(self, image_id: str) -> None:
        """Forget an image and all its names."""
        with self._database.transaction():
            self._database.execute("DELETE FROM image WHERE id = ?", (image_id,))
            for table in ("layer_blob", "layer_checksum"):
                self._database.execute(f"DELETE FROM {table} WHERE diff_id NOT IN (SELECT diff_id FROM image_layer)")

    def tags(self, repository: str) -> list[tuple[Reference, str]]:
        """Every name with a tag in `repository`, and the image that it means."""
        query = "SELECT tag, image_id FROM image_name WHERE repository = ? ORDER BY tag"
        rows = self._database.query(query, (repository,))
        return [(_reference(repository, tag=row[0]), row[1]) for row in rows]

    def documents(self, image_id: str) -> list[str]:
        """The digests of an image's documents, those that came last first."""
        query = "SELECT digest FROM image_document WHERE image_id = ? ORDER BY rowid DESC"
        return [row[0] for row in self._database.query(query, (image_id,))]

    def diff_ids(self, image_id: str) -> list[str]:
        """The layers of an image, bottom first."""
        query = "SELECT diff_id FROM image_layer WHERE image_id = ? ORDER BY position"
        return [row[0] for row in self._database.query(query, (image_id,))]

    def layer_blobs(self, diff_id: str) -> tuple[str, ...]:
        """The blobs that unpack to a layer."""
        query = "SELECT digest FROM layer_blob WHERE diff_id = ? ORDER BY digest"
        return tuple(row[0] for row in self._database.query(query, (diff_id,)))

    def forget_blob(self, digest: str) -> None:
        """Forget that a layer can be made of this blob."""
        self._database.execute("DELETE FROM layer_blob WHERE digest = ?", (digest,))

    def checksum(self, diff_id: str) -> str | None:
        """What the layer's squashfs has, if that is known."""
        rows = self._database.query("SELECT sha256 FROM layer_checksum WHERE diff_id = ?", (diff_id,))
        return rows[0][0] if rows else None

    def record_checksum(self, diff_id: str, sha256: str) -> None:
        """Say what the layer's squashfs has, unless no image has the layer any more."""
        self._database.execute(
            "INSERT INTO layer_checksum SELECT DISTINCT diff_id, ? FROM image_layer WHERE diff_id = ?"
            " ON CONFLICT DO UPDATE SET sha256 = excluded.sha256",
            (sha256, diff_id),
        )

    def layers_without_checksum(self) -> list[str]:
        """Layers of images whose squashfs nobody has looked at yet."""
        query = "SELECT DISTINCT diff_id FROM image_layer WHERE diff_id NOT IN (SELECT diff_id FROM layer_checksum)"
        return [row[0] for row in self._database.query(query)]

    def make_durable(self) -> None:
        """Let all that was said so far survive a power cut; blocks."""
        self._database.make_durable()

    def live(self) -> Live:
        """What must be kept."""
        disks: dict[str, list[str]] = {}
        for row in self._database.query("SELECT image_id, diff_id FROM image_layer ORDER BY image_id, position"):
            disks.setdefault(row[0], []).append(row[1])
        blobs = self._database.query("SELECT digest FROM image_document UNION SELECT digest FROM layer_blob")
        return Live(
            layers=frozenset(diff_id for diff_ids in disks.values() for diff_id in diff_ids),
            blobs=frozenset(row[0] for row in blobs),
            disks=frozenset(tuple(diff_ids) for diff_ids in disks.values()),
        )


def _reference(repository: str, *, tag: str | None = None, digest: str | None = None) -> Reference:
    domain, _, path = repository.partition("/")
    return Reference(domain, path, tag, digest)
