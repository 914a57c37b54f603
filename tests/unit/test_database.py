import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from harness.disks import small_disk

from atoll.errors import OutOfSpace, Unavailable
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


def test_records_change_and_go_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path, kib=8 << 10) as disk:
        database = Database(disk / "atoll.db")
        database.migrate(SCHEMA)
        database.execute("INSERT INTO thing VALUES ('first')")
        _fill(disk)
        for number in range(2000):
            database.execute("UPDATE thing SET name = ?", (f"{number} {'x' * 2000}",))
        database.execute("DELETE FROM thing")
        assert names(database) == []
        database.close()
        again = Database(disk / "atoll.db")
        assert names(again) == []
        again.close()


def test_a_full_disk_has_an_error_of_its_own(tmp_path: Path) -> None:
    with small_disk(tmp_path, kib=8 << 10) as disk:
        database = Database(disk / "atoll.db")
        database.migrate(SCHEMA)
        with pytest.raises(OutOfSpace, match="database"):
            database.execute("INSERT INTO thing VALUES (?)", ("x" * (9 << 20),))
        assert names(database) == []
        database.close()


def _fill(disk: Path) -> None:
    with (disk / "full").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
