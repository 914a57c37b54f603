"""Measures what it takes to create a container: the engine's time, and the host's disk (docs/performance.md).

The time is that of `POST /containers/create` at the engine's socket, from the request's first byte to the answer's
last, for three images: busybox, Debian's root file system, and one of 100 layers; they take turns, round by round,
after a round that does not count. Every container is removed before the next one is created. The disk is what the
host has allocated for all that is a container's own: of 100 that were created, and of some that have run `true`.

Exits with 1 when a limit is broken.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections import defaultdict
from contextlib import ExitStack

from engines import IMAGE, Refused, bench_engine, delete, post
from figures import print_table, wait_until_quiet
from harness.archives import file, image_archive, tar
from harness.engine import EngineUnderTest
from harness.images import busybox_root, debian_root

MOST_MS = 50.0
MOST_BYTES = 1_000_000
CONTAINERS = 100
STARTED = 5
LAYERS = 100
IMAGES = {IMAGE: "busybox, 1 layer, 2 MB", "debian": "Debian, 1 layer, 190 MB", "layers": f"busybox, {LAYERS} layers"}


def create(engine: EngineUnderTest, image: str) -> tuple[str, float]:
    """Create a container; its id, and the milliseconds that it took."""
    started = time.perf_counter()
    answer = post(engine, "/containers/create", {"Image": image, "Cmd": ["true"]})
    return str(answer["Id"]), (time.perf_counter() - started) * 1e3


def times_ms(engine: EngineUnderTest, rounds: int) -> dict[str, list[float]]:
    """Milliseconds by image."""
    series: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for image, title in IMAGES.items():
            wait_until_quiet()
            identity, took_ms = create(engine, image)
            if number > 0:
                series[title].append(took_ms)
            delete(engine, f"/containers/{identity}?force=1")
    return series


def allocated_bytes(engine: EngineUnderTest, containers: list[str]) -> list[int]:
    """What the host has allocated for each container's own files."""
    return [
        sum(entry.lstat().st_blocks * 512 for entry in (bundle, *bundle.rglob("*")))
        for bundle in (engine.root / "containers" / container for container in containers)
    ]


def many_layers() -> bytes:
    """An archive of busybox under 99 layers with a file each."""
    above = (tar([file(f"layer{number}", b"%d\n" % number)]) for number in range(1, LAYERS))
    return image_archive([busybox_root(), *above], "layers:latest")


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="containers of each image that count")
    options = parser.parse_args()
    with ExitStack() as stack:
        engine = stack.enter_context(bench_engine({}))
        engine.atoll.ok("image", "import", debian_root(), "debian")
        engine.atoll.ok("image", "load", input=many_layers())
        series = times_ms(engine, options.rounds)
        created = [create(engine, IMAGE)[0] for _ in range(CONTAINERS)]
        before = allocated_bytes(engine, created)
        for container in created[:STARTED]:
            engine.atoll.ok("start", "-a", container)
        after = allocated_bytes(engine, created[:STARTED])
    print_table("POST /containers/create", series)
    print_table(
        "allocated on the host for a container",
        {
            f"created ({CONTAINERS} of busybox)": [size / 1024 for size in before],
            "has run `true`": [size / 1024 for size in after],
        },
        "KiB",
    )
    medians = {title: statistics.median(values) for title, values in series.items()}
    is_broken = max(medians.values()) > MOST_MS or max(before) > MOST_BYTES
    print(f"\nlimits: {MOST_MS:g} ms (medians), {MOST_BYTES} bytes before a container writes: ", end="")
    print("BROKEN" if is_broken else "ok")
    sys.exit(is_broken)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except Refused as error:
            sys.exit(f"bench/create: {error}")
