"""One SQLite file for the whole engine; every package owns its own tables in it.

A package keeps its tables as a tuple of statements, `SCHEMA`, and hands it to `migrate` when it starts.
A statement is applied once, known by its digest: a schema grows by appending statements to the tuple
(`ALTER TABLE ...`), never by changing one that was released.

What is committed survives `kill -9` of the engine. After a power cut the last commits may be missing
(`synchronous=NORMAL` in write-ahead mode), the file is whole: https://www.sqlite.org/wal.html. Who is about to do
what cannot be undone, on the strength of a commit, calls `make_durable` first.

Space for what the engine writes while it stops and removes containers is taken when it starts: who has filled the disk
must be able to make room.
"""

import hashlib
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from atoll.errors import OutOfSpace, Unavailable

Arguments = Sequence[object] | Mapping[str, object]

APPLIED = "CREATE TABLE IF NOT EXISTS applied_statement (digest TEXT PRIMARY KEY, statement TEXT NOT NULL) STRICT"

_RESERVED_BYTES = 1 << 20
# A log of this many pages (of 4096 bytes) is written into the database, and then over again: below what is reserved.
_LOG_PAGES = 128


class Database:
    """The database at `path`, made when it is missing. Every thread may use it; a transaction excludes the others."""

    def __init__(self, path: Path) -> None:
        """Open `path`, for its owner only; raises `Unavailable` when it is no database or cannot be written."""
        self._lock = threading.RLock()
        try:
            # SQLite gives its other files the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                os.fspath(path), isolation_level=None, check_same_thread=False, timeout=10
            )
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.execute("PRAGMA foreign_keys = ON")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            self._connection.execute(APPLIED)
            self._reserve()
        except (sqlite3.Error, OSError) as error:
            message = f"database {path} cannot be opened ({error}): check the disk, or move the file away to begin anew"
            raise Unavailable(message) from error

    def close(self) -> None:
        """Close the file; a transaction under way is rolled back."""
        with self._lock:
            self._connection.close()

    def make_durable(self) -> None:
        """Let everything that was committed survive a power cut; blocks for some writes to the disk."""
        with self._lock:
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def migrate(self, statements: Sequence[str]) -> None:
        """Apply those of `statements` that this file has not seen, in order, all or none."""
        with self.transaction():
            for statement in statements:
                digest = hashlib.sha256(statement.encode()).hexdigest()
                if not self.query("SELECT 1 FROM applied_statement WHERE digest = ?", (digest,)):
                    self.execute(statement)
                    self.execute("INSERT INTO applied_statement VALUES (?, ?)", (digest, statement))

    def execute(self, sql: str, arguments: Arguments = ()) -> int:
        """Run one statement and return how many rows it changed; `sqlite3.IntegrityError` is the caller's to name.

        Raises `OutOfSpace` when the disk is full.
        """
        with self._lock, _space_errors():
            return self._connection.execute(sql, arguments).rowcount

    def query(self, sql: str, arguments: Arguments = ()) -> list[sqlite3.Row]:
        """All rows of one query; a row's columns go by name and by position."""
        with self._lock:
            return self._connection.execute(sql, arguments).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed together, or not at all when an exception leaves the block.

        Transactions nest: the innermost are savepoints. Never await inside one. Raises `OutOfSpace`.
        """
        with self._lock:
            nested = self._connection.in_transaction
            self._connection.execute("SAVEPOINT nested" if nested else "BEGIN IMMEDIATE")
            try:
                yield
                with _space_errors():
                    self._connection.execute("RELEASE nested" if nested else "COMMIT")
            except BaseException:
                if nested:
                    self._connection.execute("ROLLBACK TO nested")
                    self._connection.execute("RELEASE nested")
                elif self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _reserve(self) -> None:
        """Let file and log take the space that they will use: what is dropped again stays theirs."""
        with suppress(sqlite3.OperationalError):  # a disk that is full already
            self._connection.execute("CREATE TABLE reserve (content BLOB) STRICT")
            try:
                self._connection.execute("INSERT INTO reserve VALUES (zeroblob(?))", (_RESERVED_BYTES,))
            finally:
                self._connection.execute("DROP TABLE reserve")


@contextmanager
def _space_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OutOfSpace("no space left on the disk that holds the engine's database: make room") from error
        raise
