"""`atoll stats`: what containers use, once or again and again."""

import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.ps import SHORT_ID
from atoll.cli.errors import Failure, describe
from atoll.cli.flags import switch
from atoll.cli.listing import FORMAT, listing
from atoll.cli.session import Session
from atoll.cli.values.sizes import human_binary_size, human_size
from atoll.cli.verb import verb
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client.shapes import Statistics

HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
CLEAR_SCREEN = "\x1b[2J\x1b[H"


@verb(
    "stats",
    "[CONTAINER...]",
    help="Display a live stream of container(s) resource usage statistics",
    aliases=("atoll container stats", "atoll stats"),
)
@switch("-a", "--all", "everything", help="Show all containers (default shows just running)")
@FORMAT
@switch("--no-stream", help="Disable streaming stats and only pull the first result")
@switch("--no-trunc", help="Do not truncate output")
def stats(
    session: Session,
    everything: bool,
    format: str | None,
    no_stream: bool,
    no_trunc: bool,
    arguments: Sequence[str],
) -> None:
    """Print the use of resources; without `--no-stream`, until Ctrl-C or until no container is left."""
    from atoll.client import containers

    while True:
        names = arguments or [
            container["Id"] for container in containers.list_containers(session.client, everything=everything)
        ]
        rows = _rows(session, names, truncate=not no_trunc)
        clear = "" if no_stream or format or not sys.stdout.isatty() else CLEAR_SCREEN
        session.print(clear + listing(rows, HEADERS, COLUMNS, format))
        if no_stream or (arguments and not rows):
            return


def _rows(session: Session, names: Sequence[str], *, truncate: bool) -> list[dict[str, str]]:
    """A row for each container; each needs about a second for its CPU, so they are asked at the same time."""
    from atoll.client import containers

    found: dict[str, dict[str, str]] = {}
    failures: list[str] = []

    def ask(name: str) -> None:
        try:
            for statistics in containers.statistics(session.fork(), name, stream=False):
                found[name] = _row(name, statistics, truncate=truncate)
        except AtollError as error:
            failures.append(describe(error))

    threads = [threading.Thread(target=ask, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures and not found:
        raise Failure("\n".join(failures))
    return [found[name] for name in names if name in found]


def _row(name: str, statistics: "Statistics", *, truncate: bool) -> dict[str, str]:
    memory = statistics.get("memory_stats") or {}
    limit = memory.get("limit", 0)
    # The page cache that nobody uses is not counted, as Docker does it on cgroup v2.
    used = max(0, memory.get("usage", 0) - (memory.get("stats") or {}).get("inactive_file", 0))
    networks = (statistics.get("networks") or {}).values()
    received = sum(network.get("rx_bytes", 0) for network in networks)
    sent = sum(network.get("tx_bytes", 0) for network in networks)
    blocks = (statistics.get("blkio_stats") or {}).get("io_service_bytes_recursive") or []
    read, written = (
        sum(entry.get("value", 0) for entry in blocks if entry.get("op", "").lower() == kind)
        for kind in ("read", "write")
    )
    identity = statistics.get("id", name)
    return {
        "Container": name,
        "ID": identity[:SHORT_ID] if truncate else identity,
        "Name": statistics.get("name", "").removeprefix("/") or "--",
        "CPUPerc": f"{_cpu_percent(statistics):.2f}%",
        "MemUsage": f"{human_binary_size(used)} / {human_binary_size(limit)}",
        "MemPerc": f"{used / limit * 100 if limit else 0:.2f}%",
        "NetIO": f"{human_size(received)} / {human_size(sent)}",
        "BlockIO": f"{human_size(read)} / {human_size(written)}",
        "PIDs": str((statistics.get("pids_stats") or {}).get("current", 0)),
    }


def _cpu_percent(statistics: "Statistics") -> float:
    """Of one CPU, between the two samples that the engine sends."""
    now, before = statistics.get("cpu_stats") or {}, statistics.get("precpu_stats") or {}
    used = now.get("cpu_usage", {}).get("total_usage", 0) - before.get("cpu_usage", {}).get("total_usage", 0)
    whole = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    return used / whole * now.get("online_cpus", 1) * 100 if used > 0 and whole > 0 else 0.0
