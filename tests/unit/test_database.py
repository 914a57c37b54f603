import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from atoll.errors import Unavailable
from atoll.store import Database

SCHEMA = ("CREATE TABLE thing (name TEXT PRIMARY KEY) STRICT",)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    database = Database(tmp_path / "atoll.db")
    database.migrate(SCHEMA)
    return database


def names(database: Database) -> list[str]:
    return [row["name"] for row in database.query("SELECT name FROM thing ORDER BY name")]


def test_a_transaction_that_fails_leaves_nothing(database: Database) -> None:
    def insert_twice() -> None:
        with database.transaction():
            database.execute("INSERT INTO thing VALUES ('a')")
            database.execute("INSERT INTO thing VALUES ('a')")

    with pytest.raises(sqlite3.IntegrityError):
        insert_twice()
    assert names(database) == []


def test_an_inner_transaction_that_fails_takes_only_itself_back(database: Database) -> None:
    def insert_inner_twice() -> None:
        with database.transaction():
            database.execute("INSERT INTO thing VALUES ('inner')")
            database.execute("INSERT INTO thing VALUES ('inner')")

    with database.transaction():
        database.execute("INSERT INTO thing VALUES ('outer')")
        with pytest.raises(sqlite3.IntegrityError):
            insert_inner_twice()
    assert names(database) == ["outer"]


def test_a_schema_is_applied_once_and_grows_by_appending(database: Database, tmp_path: Path) -> None:
    database.execute("INSERT INTO thing VALUES ('kept')")
    database.close()
    again = Database(tmp_path / "atoll.db")
    again.migrate((*SCHEMA, "ALTER TABLE thing ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'"))
    again.migrate((*SCHEMA, "ALTER TABLE thing ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'"))
    assert [tuple(row) for row in again.query("SELECT name, colour FROM thing")] == [("kept", "grey")]


def test_a_migration_that_fails_leaves_the_schema_as_it_was(database: Database) -> None:
    with pytest.raises(sqlite3.Error):
        database.migrate(("CREATE TABLE other (name TEXT) STRICT", "this is not SQL"))
    assert database.query("SELECT 1 FROM sqlite_master WHERE name = 'other'") == []


def test_what_was_committed_survives_a_process_that_is_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys, signal; from pathlib import Path; from atoll.store import Database\n"
        "database = Database(Path(sys.argv[1])); database.migrate(('CREATE TABLE thing (name TEXT) STRICT',))\n"
        "database.execute(\"INSERT INTO thing VALUES ('kept')\"); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(tmp_path / "atoll.db")], check=False, timeout=30)
    assert ended.returncode == -9
    assert names(Database(tmp_path / "atoll.db")) == ["kept"]


def test_threads_do_not_mix_their_transactions(database: Database) -> None:
    def insert(prefix: str) -> None:
        for number in range(50):
            with database.transaction():
                database.execute("INSERT INTO thing VALUES (?)", (f"{prefix}{number}",))

    threads = [threading.Thread(target=insert, args=(prefix,)) for prefix in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names(database)) == 150


def test_a_file_that_is_no_database_is_refused_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "atoll.db").write_text("not a database, " * 100)
    with pytest.raises(Unavailable, match=r"atoll\.db cannot be opened"):
        Database(tmp_path / "atoll.db")


def test_only_its_owner_can_read_the_file(database: Database, tmp_path: Path) -> None:
    database.execute("INSERT INTO thing VALUES ('secret')")
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
