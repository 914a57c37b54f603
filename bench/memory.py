"""Measures what one more idle container costs the host in memory, and where it goes (docs/performance.md).

Containers (`run -d -m 128m busybox sleep 100000`) are started up to each count; when their processors' use has settled,
the proportional set size (PSS) of every process of the engine is read. What a container costs is the difference between
two counts, divided by the number of containers between them: what all of them share is in it only once.

The split is read from /proc/PID/smaps, mapping by mapping:

  guest RAM       what QEMU keeps from its children (flag `dc`), or backs with a memfd. Of a memfd, the template's RAM,
                  anonymous pages are those that the clone has written, the others are the template's, shared by all.
  translations    anonymous memory that is writable and executable: the emulator's cache of translated guest code
  kernel          QEMU's maps of kernel and initramfs, files of the engine's
  program         maps of other files: QEMU and its libraries, with what the dynamic linker has written to them
  heap            QEMU's other anonymous memory: heap, stacks, device models
  runtime         the Python process beside each QEMU: pages of its own, and its part of those that it shares with the
                  process that it was forked from
  engine          the engine and the process that runtimes are forked from: what they keep for each container

smaps rounds each mapping down to a KiB; smaps_rollup, from which the total is, does not. The last line of the split is
the difference.
"""

import argparse
import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from engines import IMAGE, Setting, bench_engine, build_template, wait_until_pool_is
from harness.engine import EngineUnderTest
from harness.process import Process

TEMPLATE, WRITTEN, OWN = (
    "guest RAM: the template's",
    "guest RAM: template pages that it wrote",
    "guest RAM: not the template's",
)
TRANSLATIONS, KERNEL, PROGRAM, HEAP = "translations", "kernel and initramfs", "QEMU's program, libraries", "QEMU's heap"
RUNTIME_OWN, RUNTIME_SHARED, ENGINE = "runtime: its own", "runtime: shared", "engine and zygote"
ROUNDING = "(rounded down above)"
ROWS = (TEMPLATE, WRITTEN, OWN, TRANSLATIONS, KERNEL, PROGRAM, HEAP, RUNTIME_OWN, RUNTIME_SHARED, ENGINE, ROUNDING)

_HEAD = re.compile(r"^[0-9a-f]+-[0-9a-f]+ (?P<access>\S{4}) \S+ \S+ \d+ *(?P<path>.*)$")
_LOOK_S = 2.0
_SETTLE_S = 90.0
_STEADY = 0.1
"""Use of the processors that differs by less than this share between two looks has settled."""


@dataclass
class Mapping:
    """One mapping of a process: access (`rwxp`), path, the kernel's flags, sizes in KiB by the kernel's names."""

    access: str
    path: str
    flags: set[str] = field(default_factory=set)
    kib: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Snapshot:
    """All processes of an engine at one moment: PSS in KiB, altogether and by row; processors that they keep busy."""

    total_kib: float
    rows_kib: Counter[str]
    processors: float


def mappings(pid: int) -> Iterator[Mapping]:
    """What /proc/PID/smaps tells."""
    mapping: Mapping | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if head := _HEAD.match(line):
            if mapping is not None:
                yield mapping
            mapping = Mapping(head["access"], head["path"])
            continue
        assert mapping is not None
        name, _, value = line.partition(":")
        if name == "VmFlags":
            mapping.flags.update(value.split())
        elif value.endswith(" kB"):
            mapping.kib[name] = int(value.split()[0])
    if mapping is not None:
        yield mapping


def pss_kib(process: Process) -> float:
    """A process's proportional set size."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise ProcessLookupError(f"{process} tells no PSS")


def look(engine: EngineUnderTest, processors: float) -> Snapshot:
    """Read all processes of the engine."""
    rows: Counter[str] = Counter()
    processes = [process for process in engine.processes() if is_of_the_engine(process)]
    runtimes = {process.parent for process in processes if is_qemu(process)}
    for process in processes:
        for mapping in mappings(process.pid):
            for row, kib in _rows(process, mapping, engine, is_runtime=process in runtimes):
                rows[row] += kib
    total_kib = sum(map(pss_kib, processes))
    rows[ROUNDING] = round(total_kib) - rows.total()
    return Snapshot(total_kib, rows, processors)


def is_qemu(process: Process) -> bool:
    """Whether it is a virtual machine."""
    return Path(os.fsdecode(_words(process)[0])).name.startswith("qemu-system")


def is_of_the_engine(process: Process) -> bool:
    """Whether it serves containers; a command of ours mentions the engine's root as well."""
    words = _words(process)
    return is_qemu(process) or (words[1:2] == [b"-m"] and words[2].startswith(b"atoll."))


def _words(process: Process) -> list[bytes]:
    """The command line; one empty word of a process that has ended."""
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return [b""]


def _rows(
    process: Process, mapping: Mapping, engine: EngineUnderTest, *, is_runtime: bool
) -> Iterator[tuple[str, int]]:
    pss = mapping.kib["Pss"]
    if is_qemu(process):
        yield from _qemu_rows(mapping, pss, os.fspath(engine.root))
    elif is_runtime:
        own = mapping.kib["Private_Clean"] + mapping.kib["Private_Dirty"]
        yield RUNTIME_OWN, own
        yield RUNTIME_SHARED, pss - own
    else:
        yield ENGINE, pss


def _qemu_rows(mapping: Mapping, pss: int, root: str) -> Iterator[tuple[str, int]]:
    is_file = mapping.path.startswith("/")
    if mapping.path.startswith("/memfd:") and "x" not in mapping.access:
        yield WRITTEN, mapping.kib["Anonymous"]
        yield TEMPLATE, pss - mapping.kib["Anonymous"]
    elif "w" in mapping.access and "x" in mapping.access:
        yield TRANSLATIONS, pss
    elif "dc" in mapping.flags and not is_file:
        yield OWN, pss
    elif mapping.path.startswith(root):
        yield KERNEL, pss
    else:
        yield (PROGRAM if is_file else HEAP), pss


def settled_processors(engine: EngineUnderTest) -> float:
    """Wait until the engine's processes use the processors as they did a moment ago; how many they keep busy then."""
    deadline = time.monotonic() + _SETTLE_S
    before, used = _used_s(engine), -1.0
    while True:
        started = time.monotonic()
        time.sleep(_LOOK_S)
        now = _used_s(engine)
        last, used = used, (now - before) / (time.monotonic() - started)
        before = now
        is_steady = last >= 0 and abs(used - last) <= _STEADY * max(used, last, _STEADY)
        if is_steady or time.monotonic() > deadline:
            return used


def _used_s(engine: EngineUnderTest) -> float:
    """Seconds of processor time that the engine's processes have used."""
    ticks = 0
    for process in engine.processes():
        with contextlib.suppress(FileNotFoundError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(") ")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(engine: EngineUnderTest, counts: Sequence[int], memory: str, pool_size: int) -> dict[int, Snapshot]:
    """Start containers up to each count, and look; without any container first."""
    found: dict[int, Snapshot] = {}
    running = 0
    for count in (0, *counts):
        for _ in range(count - running):
            engine.docker.ok("run", "-d", "-m", memory, IMAGE, "sleep", "100000")
        running = count
        if pool_size:
            wait_until_pool_is(engine, pool_size)
        found[count] = look(engine, settled_processors(engine))
    return found


def print_marginal(found: dict[int, Snapshot]) -> None:
    """MiB for each container between two counts, by where they go."""
    steps = list(pairwise(found))
    width = max(map(len, ROWS))
    print(f"\n{'MiB (PSS) for each container':{width}}" + "".join(f"{f'{a} to {b}':>12}" for a, b in steps))
    for row in ROWS:
        values = [(found[b].rows_kib[row] - found[a].rows_kib[row]) / (b - a) for a, b in steps]
        print(f"{row:{width}}" + "".join(f"{value / 1024:12.2f}" for value in values))
    totals = [(found[b].total_kib - found[a].total_kib) / (b - a) for a, b in steps]
    print(f"{'altogether':{width}}" + "".join(f"{value / 1024:12.2f}" for value in totals))
    busy = [(found[b].processors - found[a].processors) / (b - a) * 100 for a, b in steps]
    print(f"{'% of a processor, idle':{width}}" + "".join(f"{value:12.2f}" for value in busy))
    print("\nall processes of the engine: " + ", ".join(f"{n}: {s.total_kib / 1024:.0f} MiB" for n, s in found.items()))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 10, 50], help="containers (default: 1 10 50)")
    parser.add_argument("-m", "--memory", default="128m", help="memory of each container (default: %(default)s)")
    parser.add_argument("--pool", type=int, default=0, help="clones that stand ready (default: %(default)s)")
    parser.add_argument("--cold", action="store_true", help="containers boot instead of starting from a template")
    options = parser.parse_args()
    settings: dict[str, Setting] = {"pool_size": options.pool}
    if options.cold:
        settings["templates"] = False
    with ExitStack() as stack:
        engine = stack.enter_context(bench_engine(settings))
        if not options.cold:
            build_template(engine)
        found = measure(engine, sorted(set(options.counts)), options.memory, options.pool)
    print_marginal(found)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
