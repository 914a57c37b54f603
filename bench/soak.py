"""Starts containers for a long time and looks whether any start fails and anything is left (docs/performance.md).

First `--starts` of `atoll run --rm` in a row; then, for `--minutes` (or `--rounds`), 20 at once over and over, by the
atoll and the docker command, a half of them `run --rm`, the others `run -d` and `rm -f`. Each `run --rm` must print the
number that it was told to, so that no container gets another's output.

Before (after as much of a warm-up as fills the engine's caches) and after, when all is quiet again, are counted: the
engine's processes, open descriptors of the engine and of the process that runtimes are forked from (the zygote), files
below the engine's root without those of images and kernels, mounts, entries of /tmp that are ours. None may have grown.
The memory (PSS) of engine and zygote may have, by the tolerance: Python's heap is never quite as it was.

Exits with 1 when a start failed or something grew.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, fields
from pathlib import Path

from engines import IMAGE, Setting, bench_engine, get, wait_until_pool_is
from figures import wait_until_quiet
from harness.engine import EngineUnderTest
from harness.process import Process
from memory import is_of_the_engine, is_qemu, pss_kib

AT_ONCE = 20
TOLERANCE_MIB = 8.0
_COMMAND_S = 120.0
_SETTLE_S = 60.0
_SHOWN_FAILURES = 10
_NOT_COUNTED = ("content", "kernels")
"""Directories of the root whose files are images' and kernels'."""


@dataclass(frozen=True)
class Holdings:
    """What an engine holds while no container runs; memory in MiB."""

    processes: int
    engine_descriptors: int
    zygote_descriptors: int
    files: int
    mounts: int
    temporary_files: int
    memory_mib: float

    @property
    def counts(self) -> dict[str, int]:
        """What must not grow at all, by name."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        del named["memory_mib"]
        return named


@dataclass
class Report:
    """What happened: starts, seconds and failures of both parts, and what the engine held before and after."""

    before: Holdings
    after: Holdings
    together: int = AT_ONCE
    in_a_row: int = 0
    in_a_row_s: float = 0.0
    at_once: int = 0
    at_once_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def leaks(self, tolerance_mib: float = TOLERANCE_MIB) -> list[str]:
        """What has grown, one line each."""
        before, after = self.before.counts, self.after.counts
        grown = [f"{name}: {before[name]} before, {after[name]} after" for name in before if after[name] > before[name]]
        more_mib = self.after.memory_mib - self.before.memory_mib
        if more_mib > tolerance_mib:
            grown.append(f"memory of engine and zygote: {more_mib:.1f} MiB more (tolerance {tolerance_mib:g})")
        return grown

    def __str__(self) -> str:
        lines = [
            _rate("in a row", self.in_a_row, self.in_a_row_s),
            _rate(f"{self.together} at once", self.at_once, self.at_once_s),
            f"failures: {len(self.failures)}",
            *(f"  {failure}" for failure in self.failures[:_SHOWN_FAILURES]),
            f"{'':22}{'before':>10}{'after':>10}",
        ]
        after = self.after.counts
        lines += [f"{name:22}{count:10}{after[name]:10}" for name, count in self.before.counts.items()]
        lines.append(f"{'memory, MiB':22}{self.before.memory_mib:10.1f}{self.after.memory_mib:10.1f}")
        return "\n".join(lines)


def soak(
    engine: EngineUnderTest,
    starts: int,
    rounds: int | None = None,
    minutes: float = 0.0,
    at_once: int = AT_ONCE,
    pool_size: int = 0,
) -> Report:
    """`starts` in a row, then `at_once` starts together, `rounds` times or for `minutes`.

    `pool_size` is the engine's setting: it is waited for before anything is counted.
    """
    warm_up: list[str] = []
    for number in range(min(starts, at_once)):
        _run_and_remove(engine, number, warm_up)
    _together(engine, at_once, 0, warm_up)
    report = Report(before=holdings(engine, pool_size), after=_NOTHING, together=at_once, failures=warm_up)

    started = time.monotonic()
    for number in range(starts):
        _run_and_remove(engine, number, report.failures)
    report.in_a_row, report.in_a_row_s = starts, time.monotonic() - started

    started = time.monotonic()
    done = 0
    while done < rounds if rounds is not None else time.monotonic() - started < minutes * 60:
        _together(engine, at_once, done * at_once, report.failures)
        done += 1
    report.at_once, report.at_once_s = done * at_once, time.monotonic() - started
    report.after = holdings(engine, pool_size, expected=report.before)
    return report


def holdings(engine: EngineUnderTest, pool_size: int = 0, expected: Holdings | None = None) -> Holdings:
    """What the engine holds once it is quiet; what is more than `expected` gets time to go away."""
    if pool_size:
        wait_until_pool_is(engine, pool_size)
    wait_until_quiet(deadline_s=_SETTLE_S)
    deadline = time.monotonic() + _SETTLE_S
    while True:
        found = _holdings(engine)
        more = expected and any(found.counts[name] > count for name, count in expected.counts.items())
        if not more or time.monotonic() > deadline:
            return found
        time.sleep(0.5)


_NOTHING = Holdings(0, 0, 0, 0, 0, 0, 0.0)


def _holdings(engine: EngineUnderTest) -> Holdings:
    mark = os.fspath(engine.root)
    served = [process for process in engine.processes() if is_of_the_engine(process)]
    daemon = engine.process
    zygote = min((process for process in served if process.parent == daemon and not is_qemu(process)), key=_age)
    return Holdings(
        processes=len(served),
        engine_descriptors=_descriptors(daemon),
        zygote_descriptors=_descriptors(zygote),
        files=sum(1 for _ in _files(engine.root)),
        mounts=sum(mark in line for line in Path("/proc/self/mountinfo").read_text().splitlines()),
        temporary_files=sum(1 for _ in _temporary_files()),
        memory_mib=(pss_kib(daemon) + pss_kib(zygote)) / 1024,
    )


def _age(process: Process) -> int:
    return process.started


def _descriptors(process: Process) -> int:
    return len(list(Path(f"/proc/{process.pid}/fd").iterdir()))


def _files(root: Path) -> Iterator[Path]:
    for directory, below, names in os.walk(root):
        if Path(directory) == root:
            below[:] = [name for name in below if name not in _NOT_COUNTED]
        yield from (Path(directory) / name for name in (*below, *names))


def _temporary_files() -> Iterator[Path]:
    """What could be ours in /tmp, but for the roots of engines: this one's, and those of who else tests or measures."""
    for entry in Path("/tmp").iterdir():
        if "atoll" in entry.name and not (entry / "engine.lock").exists():
            yield entry


def _together(engine: EngineUnderTest, at_once: int, first: int, failures: list[str]) -> None:
    """`at_once` starts at the same time; all have ended when this returns."""
    with ThreadPoolExecutor(at_once) as threads:
        numbers = range(first, first + at_once)
        started = [threads.submit(_KINDS[number % len(_KINDS)], engine, number, failures) for number in numbers]
    for start in started:
        start.result()


def _run_and_remove(engine: EngineUnderTest, number: int, failures: list[str]) -> None:
    _run(engine, "atoll", number, failures)


def _run(engine: EngineUnderTest, command: str, number: int, failures: list[str]) -> None:
    def start() -> None:
        said = getattr(engine, command).ok("run", "--rm", IMAGE, "echo", str(number), timeout_s=_COMMAND_S)
        assert said == str(number), f"container {number} says {said!r}"

    _noting(f"{command} run --rm", failures, start)


def _detach(engine: EngineUnderTest, command: str, number: int, failures: list[str]) -> None:
    def start() -> None:
        program = getattr(engine, command)
        container = program.ok("run", "-d", IMAGE, "sleep", "100000", timeout_s=_COMMAND_S)
        program.ok("rm", "-f", container, timeout_s=_COMMAND_S)

    _noting(f"{command} run -d", failures, start)


_KINDS: tuple[Callable[[EngineUnderTest, int, list[str]], None], ...] = (
    lambda engine, number, failures: _run(engine, "atoll", number, failures),
    lambda engine, number, failures: _detach(engine, "docker", number, failures),
    lambda engine, number, failures: _run(engine, "docker", number, failures),
    lambda engine, number, failures: _detach(engine, "atoll", number, failures),
)


def _noting(what: str, failures: list[str], start: Callable[[], None]) -> None:
    try:
        start()
    except (AssertionError, subprocess.TimeoutExpired, OSError) as error:
        failures.append(f"{what}: {error}")


def _rate(name: str, starts: int, seconds: float) -> str:
    rate = starts / seconds * 60 if seconds > 0 and starts else 0.0
    return f"{name:22}{starts:6} starts in {seconds:.0f} s: {rate:.0f} a minute"


def main() -> None:
    """Soak an engine of its own, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=1000, help="starts in a row (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=10.0, help="minutes of many at once (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="rounds of many at once, instead of --minutes")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="starts at the same time (default: %(default)s)")
    parser.add_argument("--pool", type=int, help="the setting pool_size (default: the engine's)")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE_MIB, help="MiB by which engine and zygote may grow (%(default)s)"
    )
    options = parser.parse_args()
    settings: dict[str, Setting] = {} if options.pool is None else {"pool_size": options.pool}
    with ExitStack() as stack:
        engine = stack.enter_context(bench_engine(settings))
        pool_size = int(get(engine, "/atoll/status").get("Pool", {}).get("Size", 0))
        report = soak(engine, options.starts, options.rounds, options.minutes, options.at_once, pool_size)
    print(report)
    leaks = report.leaks(options.tolerance)
    for leak in leaks:
        print(f"grown: {leak}")
    sys.exit(bool(report.failures or leaks))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
