"""Measures `atoll ps` against `docker ps` on the same engine, with five containers (docs/performance.md).

The two alternate, with `python -c pass` between them, which no command in Python can undercut; the first of each is
not counted. `--imports` prints instead which modules `atoll ps` spends its time on.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

from harness.command import Command
from harness.engine import EngineUnderTest, engine_at, engine_root
from harness.images import BUSYBOX_CHANGES, busybox_root

CONTAINERS = 5
SHOWN_MODULES = 25


def seconds(command: Command, *arguments: str) -> float:
    """How long the command takes."""
    started = time.perf_counter()
    command.ok(*arguments)
    return time.perf_counter() - started


def main() -> None:
    """Measure, print the medians, their spread and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20, help="calls of each that count (default: %(default)s)")
    parser.add_argument("--imports", action="store_true", help="show where `atoll ps` spends its time on imports")
    options = parser.parse_args()
    with ExitStack() as stack:
        engine = _engine(stack)
        if options.imports:
            _print_imports(engine)
            return
        lines = {
            "atoll ps -a": (engine.atoll, ("ps", "-a")),
            "docker ps -a": (engine.docker, ("ps", "-a")),
            "python -c pass": (Command((sys.executable,)), ("-c", "pass")),
        }
        found: dict[str, list[float]] = {name: [] for name in lines}
        for round_number in range(options.rounds + 1):
            for name, (command, arguments) in lines.items():
                took_s = seconds(command, *arguments)
                if round_number > 0:
                    found[name].append(took_s)
    for name, took in found.items():
        spread = f"{min(took) * 1000:.0f} to {max(took) * 1000:.0f}"
        print(f"{name:16} median {statistics.median(took) * 1000:5.1f} ms ({spread}), {len(took)} calls")
    ratio = statistics.median(found["atoll ps -a"]) / statistics.median(found["docker ps -a"])
    print(f"ratio {ratio:.2f}")


def _engine(stack: ExitStack) -> EngineUnderTest:
    engine = engine_at(stack.enter_context(engine_root()))
    tar = engine.root / "busybox.tar"
    tar.write_bytes(busybox_root())
    changes = [word for change in BUSYBOX_CHANGES for word in ("--change", change)]
    engine.start()
    stack.callback(engine.stop)
    engine.atoll.ok("image", "import", *changes, tar, "busybox")
    for number in range(CONTAINERS):
        engine.atoll.ok("create", "--name", f"bench{number}", "busybox", "true")
    return engine


def _print_imports(engine: EngineUnderTest) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", os.fspath(engine.atoll.program[0]), "ps", "-a"],
        env=dict(engine.atoll.environment),
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")][1:]
    rows.sort(key=lambda row: int(row[1]), reverse=True)
    print("with what it imports (µs)   alone (µs)   module")
    for alone, whole, name in rows[:SHOWN_MODULES]:
        print(f"{whole.strip():>25}   {alone.removeprefix('import time:').strip():>10}   {name.strip()}")


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
