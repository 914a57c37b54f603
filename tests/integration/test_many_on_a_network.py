"""Fifty containers on one network: they find each other, and when they are gone nothing of them is."""

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.container import Container
from harness.engine import EngineUnderTest
from harness.internet import Outside
from harness.networking import addresses

MANY = 50
_AT_ONCE = 4
_SETTLE_S = 20.0


def test_fifty_containers_find_each_other_and_leave_nothing(
    networked_privately: EngineUnderTest, private_outside: Outside
) -> None:
    engine = networked_privately
    # The first one on any network makes what all of them need.
    engine.atoll.ok("run", "--rm", "busybox", "true")
    before = world(engine, private_outside)
    engine.atoll.ok("network", "create", "reef")

    def run(number: int) -> Container:
        flags = ("--network", "reef", "--name", f"fish{number}", "-m", "256m")
        return Container(engine.atoll.ok("run", "-d", *flags, "busybox", "sleep", "100000", timeout_s=300), engine)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        fish = list(pool.map(run, range(MANY)))
    places = [addresses(container, "reef") for container in fish]
    for kind in ("mac", "ipv4", "ipv6"):
        assert len({getattr(place, kind) for place in places}) == MANY
    script = f"for n in $(seq 0 {MANY - 1}); do nslookup -type=a fish$n | grep Address | tail -1; done"
    for container in (fish[0], fish[-1]):
        found = container.exec("sh", "-c", script).stdout
        assert [line.split()[-1] for line in found.splitlines()] == [place.ipv4 for place in places]
    for container in (fish[MANY // 2], fish[-1]):
        assert container.exec("ping", "-c", "1", "-W", "10", "fish0").code == 0
    engine.atoll.ok("rm", "-f", *(container.id for container in fish), timeout_s=300)
    engine.atoll.ok("network", "rm", "reef")
    deadline = time.monotonic() + _SETTLE_S
    while (left := world(engine, private_outside) - before) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert not left


def world(engine: EngineUnderTest, outside: Outside) -> Counter[str]:
    """All that containers on a network could leave: on the host, among processes, open files of the engine."""
    programs = [f"process {' '.join(str(process).split()[1:4])}" for process in engine.processes()]
    files = [_what(link) for link in Path(f"/proc/{engine.process.pid}/fd").iterdir()]
    # A template stays in memory for the next start.
    return Counter(outside.traces() + programs + [f"file {what}" for what in files if what != "/memfd"])


def _what(link: Path) -> str:
    """What a descriptor is, without the number that tells it from others of its kind."""
    try:
        return os.fspath(link.readlink()).split(":")[0]
    except FileNotFoundError:
        return "gone"
