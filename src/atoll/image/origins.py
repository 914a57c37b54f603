"""Which repositories of which registries have a blob, as far as we have seen: a push may mount it from there."""

from collections.abc import Iterable

from atoll.image.reference import Reference
from atoll.store.database import Database

SCHEMA = (
    """CREATE TABLE blob_origin (
        digest TEXT NOT NULL,
        domain TEXT NOT NULL,
        path TEXT NOT NULL,
        PRIMARY KEY (digest, domain, path)
    ) STRICT, WITHOUT ROWID""",
)

_MOST = 3
"""Repositories that are tried for one blob; each costs a request."""


class Origins:
    """The table in `database`. It may be wrong: registries forget."""

    def __init__(self, database: Database) -> None:
        """Open the table, after those of `Catalog` and `Packing`, and forget blobs that neither knows."""
        self._database = database
        database.migrate(SCHEMA)
        # What no image is made of any more nobody will push.
        database.execute(
            "DELETE FROM blob_origin WHERE digest NOT IN"
            " (SELECT digest FROM layer_blob UNION SELECT digest FROM packed_layer)"
        )

    def add(self, reference: Reference, digests: Iterable[str]) -> None:
        """The repository of `reference` has these blobs."""
        with self._database.transaction():
            for digest in digests:
                row = (digest, reference.domain, reference.path)
                self._database.execute("INSERT INTO blob_origin VALUES (?, ?, ?) ON CONFLICT DO NOTHING", row)

    def forget(self, reference: Reference, path: str, digest: str) -> None:
        """The repository `path` of the same registry does not have it after all."""
        row = (digest, reference.domain, path)
        self._database.execute("DELETE FROM blob_origin WHERE digest = ? AND domain = ? AND path = ?", row)

    def paths(self, reference: Reference, digest: str) -> list[str]:
        """Other repositories of the registry of `reference` that have the blob, a few."""
        query = "SELECT path FROM blob_origin WHERE digest = ? AND domain = ? AND path != ? ORDER BY path LIMIT ?"
        return [row[0] for row in self._database.query(query, (digest, reference.domain, reference.path, _MOST))]
