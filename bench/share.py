"""Measures a host directory in a container (`-v /host:/path`) beside the container's own disk, in one container.

The own disk is ext4 on virtio-blk, which the guest's kernel writes by itself; what a host directory costs is that every
request leaves the guest. Written is with fsync, read with an empty cache of the guest. Rounds take turns. Nothing is
compared with a limit: no promise is made about host directories but that they are there.
"""

import argparse
import asyncio
import tempfile
from collections import defaultdict
from pathlib import Path

from figures import print_table
from harness.bundled import bundled_container, make_guest
from harness.images import busybox_root
from harness.kernel import unpacked_kernel
from harness.runtime import sh

from atoll.model.container import Export
from atoll.runtime.spawner import Spawner

PLACES = {"host directory": "/data", "own disk": "/root"}
AGAIN = "list them again"
"""Alone begins with what the guest remembers."""
STEPS = {
    "write, MB/s": "dd if=/dev/zero of=$where/big bs=1M count=$mib conv=fsync 2>/dev/null",
    "read, MB/s": "dd if=$where/big of=/dev/null bs=1M 2>/dev/null",
    "make 500 files, ms": "mkdir $where/many; for i in $(seq 500); do echo $i > $where/many/$i; done",
    "list them, ms": "ls -l $where/many > /dev/null",
    f"{AGAIN}, ms": "ls -l $where/many > /dev/null",
    "remove them, ms": "rm -r $where/many",
}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="bench/share", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of both (default 3)")
    parser.add_argument("--mib", type=int, default=64, help="size of the large file (default 64)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as name:
        Path(name).chmod(0o755)
        figures = asyncio.run(measure(Path(name), options.rounds, options.mib))
    for step in STEPS:
        title, _, unit = step.partition(", ")
        print_table(title, {place: figures[step, place] for place in PLACES}, unit)


async def measure(directory: Path, rounds: int, mib: int) -> dict[tuple[str, str], list[float]]:
    """Every figure of every round, by step and place."""
    tar = directory / "busybox.tar"
    tar.write_bytes(busybox_root())
    guest = await asyncio.to_thread(make_guest, unpacked_kernel(), tar, directory)
    shown = directory / "shown"
    shown.mkdir()
    async with (
        Spawner() as spawner,
        bundled_container(
            guest,
            spawner,
            directory,
            sh(script(rounds, mib)),
            None,
            {"privileged": True},
            (Export(path=str(shown), target=PLACES["host directory"]),),
        ) as container,
    ):
        status = await container.run()
        printed = container.logged().decode()
    if status.code != 0:
        raise SystemExit(f"the container failed ({status.code}): {printed}")
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for line in printed.splitlines():
        place, step, seconds = line.split("\t")
        took_s = max(float(seconds), 0.01)
        figures[step, place].append(mib * 1.048576 / took_s if step.endswith("MB/s") else took_s * 1000)
    return figures


def script(rounds: int, mib: int) -> str:
    """What the container does; the time is the guest's uptime, in hundredths of a second."""
    lines = ["set -e", f"mib={mib}", "now() { read up idle < /proc/uptime; echo $up; }"]
    for _ in range(rounds):
        for place, where in PLACES.items():
            lines.append(f"where={where}")
            for step, command in STEPS.items():
                if not step.startswith(AGAIN):
                    lines.append("sync; echo 3 > /proc/sys/vm/drop_caches")
                lines += [
                    f"begin=$(now); {command}; end=$(now)",
                    f"printf '{place}\\t{step}\\t%s\\n' $(echo $begin $end | awk '{{print $2 - $1}}')",
                ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
