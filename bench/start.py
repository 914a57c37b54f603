"""Measures the start of a container end to end, beside Docker and Podman (docs/performance.md).

What is timed is a command from its start to its end, as a shell would run it: `docker run --rm --network none busybox
true`, by the same docker command, against three engines of ours and Debian's dockerd; `podman run` with the same
arguments; `atoll run`; `docker exec`; the docker client alone. Our engines differ in how a container starts: `cold`
boots its VM, `clone` starts it from the template, `pool` takes a clone that stands ready. All take turns, round by
round, after a round that does not count; before each the pool is full and the machine is quiet.

A second series of rounds asks the engines where the time went (`GET /atoll/containers/ID/timings`), and runs the floor
beside them: a raw QEMU clone that binds, mounts and executes, with nothing of ours in it (bench/floor --help).

Docker and Podman are measured when they are installed; scripts/install-peers installs Debian's without starting them.
The bench runs a dockerd of its own, with an empty data root, on a private socket, and ends it.

Exits with 1 when a limit is broken, those against Docker only where Docker is.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from engines import IMAGE, Refused, Setting, bench_engine, build_template, get, wait_until_pool_is
from figures import p95, print_table, wait_until_quiet
from floor import FIRST_INSTRUCTION, FloorFailed, floor_template
from harness.command import Command
from harness.kernel import unpacked_kernel
from harness.peers import PeerUnavailable, dockerd, podman

POOL_SIZE = 2
KINDS: Mapping[str, Mapping[str, Setting]] = {
    "cold": {"templates": False, "pool_size": 0},
    "clone": {"pool_size": 0},
    "pool": {"pool_size": POOL_SIZE},
}
"""The engines, by how their containers start, and the settings that make them do so."""
TITLES = {
    "cold": "docker run, Atoll, cold start",
    "clone": "docker run, Atoll, clone start",
    "pool": "docker run, Atoll, pool start",
    "docker": "docker run, dockerd",
    "podman": "podman run",
    "atoll-clone": "atoll run, clone start",
    "atoll-pool": "atoll run, pool start",
    "exec": "docker exec, Atoll",
    "docker-exec": "docker exec, dockerd",
    "client": "docker --version",
}
SECOND_SERIES = ("phases", "floor")
FIRST_INSTRUCTION_PHASE = "exec"
"""The phase of the engine's timings that ends with the first instruction of the container's process."""

RATIOS = (("pool", "docker", 0.6), ("clone", "docker", 1.3), ("exec", "docker-exec", 0.6))
DIFFERENCES_MS = (("atoll-pool", "pool", 70.0), ("atoll-clone", "clone", 70.0))
FLOOR_RATIO = 1.3

Series = dict[str, list[float]]


@dataclass(frozen=True)
class Phase:
    """One phase of one start, in milliseconds from the moment at which the engine got the request."""

    name: str
    start_ms: float
    end_ms: float


@dataclass(frozen=True)
class Start:
    """One start as the engine tells it; `kind` is how the container did start."""

    kind: str
    phases: tuple[Phase, ...]


@dataclass(frozen=True)
class Limit:
    """A figure that must not be above another."""

    what: str
    value: float
    most: float
    unit: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether it is not."""
        return self.value <= self.most

    def __str__(self) -> str:
        verdict = "ok" if self.is_kept else "BROKEN"
        return f"{self.what:62} {self.value:6.2f}{self.unit}  limit {self.most:g}{self.unit}  {verdict}"


class Bench:
    """The engines and the peers that take part, and how each row is measured."""

    def __init__(self, stack: ExitStack, kinds: Sequence[str], rows: Sequence[str], *, with_rm: bool) -> None:
        self._run = ("run", *(("--rm",) if with_rm else ()), "--network", "none")
        self._with_rm = with_rm
        self.measurements = self.disturbed = 0
        self.engines = {kind: stack.enter_context(bench_engine(KINDS[kind])) for kind in kinds}
        for kind, engine in self.engines.items():
            if kind != "cold":
                build_template(engine)
        self._rows: dict[str, Callable[[], float]] = {}
        self._add_ours(rows)
        if "docker" in rows or "docker-exec" in rows:
            self._add_docker(stack, rows)
        if "podman" in rows:
            self._add_podman(stack)

    def settle(self) -> None:
        """Wait until nothing of an earlier measurement goes on."""
        if "pool" in self.engines:
            wait_until_pool_is(self.engines["pool"], POOL_SIZE)
        self.measurements += 1
        self.disturbed += not wait_until_quiet()

    def end_to_end(self, rounds: int) -> Series:
        """Milliseconds by row."""
        series: Series = {row: [] for row in TITLES if row in self._rows}
        for number in range(rounds + 1):
            for row, values in series.items():
                self.settle()
                took_ms = self._rows[row]()
                if number > 0:
                    values.append(took_ms)
        return series

    def timed_start(self, kind: str) -> Start:
        """Start a container and ask the engine where the time went; raises `Refused`."""
        docker = self.engines[kind].docker
        docker.ok("run", "--name", "timed", "--network", "none", IMAGE, "true")
        try:
            found = get(self.engines[kind], "/atoll/containers/timed/timings")
        finally:
            docker.ok("rm", "timed")
        phases = (Phase(phase["Name"], phase["StartMs"], phase["EndMs"]) for phase in found["Phases"])
        return Start(found["Kind"], tuple(phases))

    def _add_ours(self, rows: Sequence[str]) -> None:
        for kind, engine in self.engines.items():
            if kind in rows:
                self._rows[kind] = self._run_row(engine.docker)
            if f"atoll-{kind}" in rows:
                self._rows[f"atoll-{kind}"] = self._run_row(engine.atoll)
        engine = self.engines.get("pool") or next(iter(self.engines.values()))
        if "exec" in rows:
            self._rows["exec"] = _exec_row(engine.docker)
        if "client" in rows:
            self._rows["client"] = lambda: _took_ms(engine.docker, "--version")

    def _add_docker(self, stack: ExitStack, rows: Sequence[str]) -> None:
        try:
            docker = stack.enter_context(dockerd())
        except PeerUnavailable as error:
            print(f"without Docker: {error}")
            return
        if "docker" in rows:
            self._rows["docker"] = self._run_row(docker)
        if "docker-exec" in rows:
            self._rows["docker-exec"] = _exec_row(docker)
            stack.callback(_remove_all, docker)

    def _add_podman(self, stack: ExitStack) -> None:
        try:
            command, flags = stack.enter_context(podman())
        except PeerUnavailable as error:
            print(f"without Podman: {error}")
            return
        self._rows["podman"] = self._run_row(command, *flags)

    def _run_row(self, command: Command, *flags: str) -> Callable[[], float]:
        def measure() -> float:
            took_ms = _took_ms(command, *self._run, *flags, IMAGE, "true")
            if not self._with_rm:
                command.ok("rm", command.ok("ps", "--latest", "--quiet"))
            return took_ms

        return measure


def _exec_row(docker: Command) -> Callable[[], float]:
    container = docker.ok("run", "-d", "--network", "none", IMAGE, "sleep", "100000")
    return lambda: _took_ms(docker, "exec", container, "true")


def _remove_all(docker: Command) -> None:
    docker.ok("rm", "-f", *docker.ok("ps", "-aq").split())


def _took_ms(command: Command, *arguments: str) -> float:
    started = time.perf_counter()
    command.ok(*arguments)
    return (time.perf_counter() - started) * 1e3


def phases_and_floor(bench: Bench, rounds: int, wanted: Sequence[str]) -> tuple[dict[str, list[Start]], Series]:
    """The second series: starts by the engine that was asked, and the floor's figures."""
    starts: dict[str, list[Start]] = {kind: [] for kind in bench.engines if "phases" in wanted}
    floor_figures: Series = defaultdict(list)
    with ExitStack() as stack:
        floor = stack.enter_context(floor_template(unpacked_kernel())) if "floor" in wanted else None
        for number in range(rounds + 1):
            for kind, found in starts.items():
                bench.settle()
                start = bench.timed_start(kind)
                if number > 0:
                    found.append(start)
            if floor is not None:
                bench.settle()
                for name, took_ms in floor.clone().items():
                    if number > 0:
                        floor_figures[name].append(took_ms)
    return starts, floor_figures


def print_phases(asked: str, starts: Sequence[Start]) -> None:
    """Where the time of one engine's starts went; without those that started in another way (see `limits`)."""
    fitting = [start for start in starts if start.kind == asked]
    if not fitting:
        return
    phases: dict[str, list[Phase]] = defaultdict(list)
    for start in fitting:
        for phase in start.phases:
            phases[phase.name].append(phase)
    width = max([24, *map(len, phases)])
    print(f"\n{f'phases of a {asked} start':{width}}  {'from':>8}  {'to':>8}  {'took':>8}  {'p95':>8}   (ms; medians)")
    for name, found in sorted(phases.items(), key=lambda item: statistics.median(phase.end_ms for phase in item[1])):
        took = [phase.end_ms - phase.start_ms for phase in found]
        begin, end = (
            statistics.median(values) for values in zip(*((p.start_ms, p.end_ms) for p in found), strict=True)
        )
        print(f"{name:{width}}  {begin:8.1f}  {end:8.1f}  {statistics.median(took):8.1f}  {p95(took):8.1f}")


def limits(series: Series, starts: Mapping[str, Sequence[Start]], floor: Series) -> list[Limit]:
    """Every limit whose two figures were measured, and that the engines' starts were what they were asked to be."""
    medians = {row: statistics.median(values) for row, values in series.items() if values}
    found = [
        Limit(f"{TITLES[ours]} / {TITLES[theirs]}", medians[ours] / medians[theirs], most)
        for ours, theirs, most in RATIOS
        if ours in medians and theirs in medians
    ]
    found += [
        Limit(f"{TITLES[ours]} - {TITLES[theirs]}", medians[ours] - medians[theirs], most, " ms")
        for ours, theirs, most in DIFFERENCES_MS
        if ours in medians and theirs in medians
    ]
    found += [
        Limit(
            f"starts that should have been {asked} starts and were not", sum(start.kind != asked for start in those), 0
        )
        for asked, those in starts.items()
    ]
    clones = [start for start in starts.get("clone", ()) if start.kind == "clone"]
    if clones and floor.get(FIRST_INSTRUCTION):
        ratio = statistics.median(map(_first_instruction_ms, clones)) / statistics.median(floor[FIRST_INSTRUCTION])
        found.append(Limit("clone, start request to first instruction / the floor", ratio, FLOOR_RATIO))
    return found


def _first_instruction_ms(start: Start) -> float:
    """From the request to the first instruction; raises `Refused` when the engine does not tell."""
    for phase in start.phases:
        if phase.name == FIRST_INSTRUCTION_PHASE:
            return phase.end_ms
    told = ", ".join(phase.name for phase in start.phases)
    raise Refused(f"the engine's timings have no phase {FIRST_INSTRUCTION_PHASE!r}, only {told}")


def main() -> None:
    """Measure, print the tables, check the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="rounds that count (default: %(default)s)")
    keys = (*TITLES, *SECOND_SERIES)
    parser.add_argument("--only", nargs="+", choices=keys, metavar="ROW", help=f"rows to measure: {', '.join(keys)}")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="our engines that take part")
    parser.add_argument("--no-peers", action="store_true", help="without Docker and Podman")
    parser.add_argument("--no-rm", action="store_true", help="`run` without `--rm`; removing is not timed")
    options = parser.parse_args()
    wanted = options.only or list(keys)
    if options.no_peers:
        wanted = [row for row in wanted if row not in ("docker", "docker-exec", "podman")]
    with ExitStack() as stack:
        bench = Bench(stack, options.kinds, wanted, with_rm=not options.no_rm)
        series = bench.end_to_end(options.rounds)
        print_table("end to end", {TITLES[row]: values for row, values in series.items()})
        starts, floor = phases_and_floor(bench, options.rounds, wanted)
    for kind, found in starts.items():
        print_phases(kind, found)
    if floor:
        print_table("the floor", floor)
    print()
    if bench.disturbed:
        print(f"{bench.disturbed} of {bench.measurements} measurements began while the machine was busy\n")
    checked = limits(series, starts, floor)
    print("\n".join(map(str, checked)))
    sys.exit(not all(limit.is_kept for limit in checked))


if __name__ == "__main__":
    try:
        with contextlib.suppress(KeyboardInterrupt):
            main()
    except (FloorFailed, Refused) as error:
        sys.exit(f"bench/start: {error}")
