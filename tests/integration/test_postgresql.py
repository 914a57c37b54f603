"""A database on a volume: what it has told its clients to be committed is there after its VM was killed."""

import re
import signal
import time
from collections.abc import Iterator

import pytest
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import postgresql_root

_BIN = "/usr/lib/postgresql/15/bin"
_DATA = "/data/cluster"
_READY_S = 240
_BALANCES = (
    "select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
    " and (select sum(tbalance) from pgbench_tellers) = (select sum(bbalance) from pgbench_branches)"
    " and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)"
)
_INSERTS = (
    "i=0; while :; do i=$((i+1)); echo \"insert into told values ($i) returning 'committed ' || n;\"; done"
    " | psql -Atq -d postgres"
)


@pytest.fixture
def database(engine: EngineUnderTest) -> Iterator[Container]:
    """A PostgreSQL server whose cluster is on a volume."""
    atoll = engine.atoll
    atoll.ok(
        "image",
        "import",
        "--change",
        "USER postgres",
        "--change",
        "ENV PGHOST=/tmp",
        postgresql_root(),
        "postgresql",
        timeout_s=300,
    )
    serve = f"test -d {_DATA} || {_BIN}/initdb -D {_DATA} --auth trust; exec {_BIN}/postgres -D {_DATA} -k /tmp"
    volume = ("-v", "cluster:/data")
    atoll.ok("run", "--rm", "-u", "root", *volume, "postgresql", "chown", "postgres", "/data")
    yield Container(atoll.ok("run", "-d", "--init", *volume, "postgresql", "sh", "-c", serve), engine)
    atoll.ok("rm", "-f", *atoll.ok("ps", "-aq").split())
    atoll.ok("volume", "rm", "cluster")
    atoll.ok("rmi", "postgresql")


def test_no_committed_transaction_is_lost_when_the_vm_is_killed(engine: EngineUnderTest, database: Container) -> None:
    _wait_until_ready(database)
    assert _query(database, "create table told (n integer primary key)") == "CREATE TABLE"
    assert database.exec(f"{_BIN}/pgbench", "-i", "-q", "-d", "postgres").code == 0
    bench = engine.atoll.start("exec", database.id, f"{_BIN}/pgbench", "-c", "2", "-T", "600", "postgres")
    client = engine.atoll.start("exec", database.id, "sh", "-c", _INSERTS)
    try:
        assert client.stdout is not None
        told = [_number(client.stdout.readline()) for _ in range(100)]
        assert int(_query(database, "select count(*) from pgbench_history")) > 0
        database.vmm.kill(signal.SIGKILL)
        told += [_number(line) for line in client.stdout if line.startswith(b"committed")]
    finally:
        for process in (bench, client):
            process.kill()
            process.communicate()
    assert database.wait() == 137

    database.start()
    _wait_until_ready(database)
    assert "database system was not properly shut down" in database.logs().stderr
    kept = [int(number) for number in _query(database, "select n from told order by n").split()]
    assert kept[: len(told)] == told
    assert kept == list(range(1, len(kept) + 1))
    assert _query(database, _BALANCES) == "t"


def _query(database: Container, query: str) -> str:
    done = database.exec("psql", "-At", "-d", "postgres", "-c", query)
    assert done.code == 0, str(done)
    return done.stdout.strip()


def _wait_until_ready(database: Container) -> None:
    deadline = time.monotonic() + _READY_S
    while database.exec("pg_isready", "-q").code != 0:
        assert database.status == "running", str(database.logs())
        assert time.monotonic() < deadline, str(database.logs())
        time.sleep(0.5)


def _number(line: bytes) -> int:
    found = re.fullmatch(rb"committed (\d+)\n", line)
    assert found, line
    return int(found[1])
