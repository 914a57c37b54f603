"""Measures how long an image takes from a registry to a container that can start, beside Docker and Podman.

The image has eight layers, about 200 MB unpacked: Debian's root file system in four pieces, libraries, small files,
programs, documents, compressed with gzip as `docker push` does. Debian's docker-registry serves it on loopback. `pull`
and then `create` are timed from the start of the first command to the end of the second, with a store that has
nothing of the image; the three take turns, round by round, after a round that does not count. Before each, what others
have written is flushed and the machine is quiet.

Then, without Docker and Podman: an image that shares seven of its eight layers with one that is here (bytes that the
registry has sent, and the time), and the most memory that the engine has held (VmHWM) while it pulled a layer of
`--big-mib`, served by the bench, which makes its bytes as it sends them.

Docker and Podman are measured when they are installed; scripts/install-peers does that. Exits with 1 when a limit is
broken, those against a peer only where it is.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from big_layer import big_image
from engines import bench_engine
from figures import print_table, wait_until_quiet
from harness.command import Command
from harness.docker_registry import DockerRegistry, docker_registry
from harness.engine import EngineUnderTest
from harness.peers import PeerUnavailable, dockerd, podman
from layered import eight_layers, one_layer

TITLES = {"atoll": "atoll pull, create", "docker": "docker pull, create", "podman": "podman pull, create"}
PEER_RATIO = 0.5
SHARED_RATIO = 1.05
"""What a layer's blob may cost beyond its size: the configuration comes with it."""
MOST_RESIDENT_MIB = 150
_PULL_S = 600.0


@dataclass(frozen=True)
class Contestant:
    """One engine: how it pulls and creates, and how all of that is taken away again."""

    command: Command
    pull: tuple[str, ...] = ("pull",)
    create: tuple[str, ...] = ("create", "--network", "none")

    def seconds(self, image: str) -> tuple[float, float]:
        """How long `pull` took, and `pull` and `create` together; nothing of the image is left."""
        started = time.perf_counter()
        self.command.ok(*self.pull, image, timeout_s=_PULL_S)
        pulled = time.perf_counter()
        container = self.command.ok(*self.create, image, "true")
        created = time.perf_counter()
        self.command.ok("rm", container)
        self.command.ok("rmi", image)
        return pulled - started, created - started


def main() -> None:
    """Measure and print; exit with 1 when a limit is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pulls of each that count (default: %(default)s)")
    parser.add_argument("--mib", type=int, default=190, help="size of the image, unpacked (default: %(default)s)")
    parser.add_argument(
        "--big-mib", type=int, default=512, help="size of the large layer; 0: none (default: %(default)s)"
    )
    parser.add_argument("--no-peers", action="store_true", help="leave Docker and Podman out")
    options = parser.parse_args()
    broken: list[str] = []
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-", dir="/tmp")))
        registry = stack.enter_context(docker_registry(directory))
        # Nothing but the pull: no template is built and no clone made meanwhile.
        engine = stack.enter_context(bench_engine({"templates": False, "pool_size": 0}))
        contestants = {"atoll": Contestant(engine.atoll)}
        if not options.no_peers:
            contestants |= _peers(stack)
        layers = eight_layers(options.mib)
        name = registry.push("bench/layered", "1", layers)
        shared = registry.push("bench/layered", "2", [*layers[:-1], one_layer(10)])
        blobs, tars = sum(len(layer.blob) for layer in layers), sum(layer.tar_bytes for layer in layers)
        print(f"image: {tars / 1e6:.0f} MB in {len(layers)} layers, {blobs / 1e6:.0f} MB compressed")
        broken += _compare(contestants, name, options.rounds)
        broken += _share(engine, registry, name, shared)
        if options.big_mib:
            broken += _large(engine, options.big_mib)
    for limit in broken:
        print(f"broken: {limit}")
    sys.exit(1 if broken else 0)


def _peers(stack: ExitStack) -> dict[str, Contestant]:
    found: dict[str, Contestant] = {}
    openers: dict[str, Callable[[], Contestant]] = {
        "docker": lambda: Contestant(stack.enter_context(dockerd())),
        "podman": lambda: Contestant(stack.enter_context(podman())[0], pull=("pull", "--quiet", "--tls-verify=false")),
    }
    for name, opened in openers.items():
        try:
            found[name] = opened()
        except PeerUnavailable as error:
            print(f"without {name}: {error}")
    return found


def _compare(contestants: dict[str, Contestant], image: str, rounds: int) -> list[str]:
    """Pull it with everyone, and compare."""
    runnable: dict[str, list[float]] = defaultdict(list)
    pulls: dict[str, list[float]] = defaultdict(list)
    for round_number in range(rounds + 1):
        for name, contestant in contestants.items():
            _settle()
            pulled_s, runnable_s = contestant.seconds(image)
            if round_number > 0:
                pulls[f"{TITLES[name].partition(',')[0]}"].append(pulled_s * 1000)
                runnable[name].append(runnable_s * 1000)
    print_table("cold store, to runnable", {TITLES[name]: values for name, values in runnable.items()})
    print_table("of which", pulls)
    broken = []
    for peer in contestants.keys() - {"atoll"}:
        ratio = statistics.median(runnable["atoll"]) / statistics.median(runnable[peer])
        print(f"{TITLES['atoll']} / {peer}'s: {ratio:.2f} (at most {PEER_RATIO})")
        if ratio > PEER_RATIO:
            broken.append(f"the pull takes {ratio:.2f} of {peer}'s time, more than {PEER_RATIO}")
    return broken


def _share(engine: EngineUnderTest, registry: DockerRegistry, first: str, second: str) -> list[str]:
    """Pull an image, and another one that has all of its layers but one."""
    contestant = Contestant(engine.atoll)
    engine.atoll.ok("pull", first, timeout_s=_PULL_S)
    _settle()
    before = registry.sent_blob_bytes()
    _, runnable_s = contestant.seconds(second)
    shared_bytes = registry.sent_blob_bytes() - before
    engine.atoll.ok("rmi", first)
    before = registry.sent_blob_bytes()
    contestant.seconds(second)
    whole_bytes = registry.sent_blob_bytes() - before
    alone = len(one_layer(10).blob)
    print(
        f"\nseven of eight layers here: {runnable_s * 1000:.0f} ms to runnable, {shared_bytes / 1e6:.2f} MB fetched"
        f" (the layer: {alone / 1e6:.2f} MB; of an image that is not here: {whole_bytes / 1e6:.1f} MB)"
    )
    if shared_bytes > SHARED_RATIO * alone:
        return [f"an image that shares its layers fetched {shared_bytes} bytes, and its own layer has {alone}"]
    return []


def _large(engine: EngineUnderTest, mib: int) -> list[str]:
    """Pull one large layer and look what the engine has held in memory at most."""
    with big_image(mib) as image:
        _settle()
        engine_status = Path(f"/proc/{engine.process.pid}")
        (engine_status / "clear_refs").write_text("5")  # the peak counts from here
        idle_mib = _peak_mib(engine_status)
        started = time.perf_counter()
        engine.atoll.ok("pull", image.name, timeout_s=_PULL_S)
        took_s = time.perf_counter() - started
        peak_mib = _peak_mib(engine_status)
        engine.atoll.ok("rmi", image.name)
    print(
        f"\nlayer of {image.tar_bytes / 1e9:.2f} GB ({image.blob_bytes / 1e9:.2f} compressed): {took_s:.1f} s,"
        f" {image.tar_bytes / 1e6 / took_s:.0f} MB/s; engine at most {peak_mib:.0f} MiB resident"
        f" ({idle_mib:.0f} before; limit {MOST_RESIDENT_MIB})"
    )
    if peak_mib > MOST_RESIDENT_MIB:
        return [f"the engine held {peak_mib:.0f} MiB, more than {MOST_RESIDENT_MIB}"]
    return []


def _peak_mib(process: Path) -> float:
    for line in (process / "status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"{process} tells no peak")


def _settle() -> None:
    """Nothing that was written before is written back meanwhile."""
    os.sync()
    wait_until_quiet()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
