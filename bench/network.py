"""Measures networks against what does the same without us (docs/performance.md).

Two containers on a network, and two plain guests (bench/guest.py) on taps of a bridge, take turns: a stream of bytes
from guest to guest, one from the namespace of the bridge to a guest, and connecting; both pairs are started several
times, for what one can do differs from boot to boot. Then a published port, and
docker-proxy, lead to the same server in a namespace without a guest. Then starts of a container with a network and
without one take turns.

A ratio is the median of those of neighbouring runs: what else the machine does, it does to both. All of it happens in
network namespaces that are gone at the end. Exits with 1 when a limit is broken. Needs root, and docker-proxy.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import boot
from docker_proxy import docker_proxy
from engines import bench_engine, build_template, post, wait_until_pool_is
from figures import print_table, wait_until_quiet
from guest import Guest, GuestFailed, guest
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import build_probe
from harness.internet import Outside, outside
from harness.kernel import unpacked_kernel
from harness.networking import addresses, make_probe_image, segments
from harness.segment import small_segment
from harness.small_segment import SINK
from pusher import push_mib_s

LEAST = 0.9
LEAST_PORT = 0.8
MOST_START_MS = 15.0
OURS, PLAIN, PROXY = "container", "plain QEMU, tap on a bridge", "docker-proxy"
PORT = "9000"
MIB = 256
PORT_MIB = 2048
CONNECTS = 200
BOOTS = 5
_SUBNET = "10.77.0"

Series = dict[str, list[float]]
Kind = tuple[str, str, bool]
"""Title, unit, and whether more is better."""
KINDS: dict[str, Kind] = {
    "guest to guest": ("guest to guest", "MiB/s", True),
    "host to guest": ("host to guest", "MiB/s", True),
    "connect": ("connect, guest to guest", "us", False),
}


class Pair:
    """Two guests of a kind: what one prints, what the host prints, and the other's address, where it sinks bytes."""

    def __init__(self, one: Callable[[str], str], host: Callable[[str], str], address: str) -> None:
        self._one, self._host, self._address = one, host, address

    def measure(self, kind: str) -> float:
        """One run: MiB/s, or the median of some connections in microseconds."""
        if kind == "connect":
            took = self._one(f"probe connect {self._address} {PORT} {CONNECTS}").split()
            return statistics.median(map(float, took))
        run = self._one if kind == "guest to guest" else self._host
        return MIB / float(run(f"probe push {self._address} {PORT} {MIB << 20}"))


@contextmanager
def containers(engine: EngineUnderTest, probe: Path, image: str) -> Iterator[Pair]:
    """Two of ours on a network."""
    engine.atoll.ok("network", "create", "reef")
    run = ("run", "-d", "--network", "reef", image)
    one, other = (Container(engine.atoll.ok(*run, "probe", "sink", PORT), engine) for _ in range(2))
    place = addresses(other, "reef")
    namespaces = [f"--net=/proc/{process.pid}/ns/net" for process in segments(engine)]
    # A segment's outlet has its name, and is outside.
    [namespace] = [name for name in namespaces if f" {place.gateway}/" in _run("nsenter", name, "ip", "-4", "address")]

    def on_host(line: str) -> str:
        words = ["nsenter", namespace, os.fspath(probe), *line.split()[1:]]
        return _run(*words)

    yield Pair(lambda line: engine.atoll.ok("exec", one.id, *line.split()), on_host, place.ipv4)
    engine.atoll.ok("rm", "-f", one.id, other.id)
    engine.atoll.ok("network", "rm", "reef")


def _run(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


@contextmanager
def plain_guests(place: Outside, probe: Path, scratch: Path) -> Iterator[Pair]:
    """Two plain guests on taps of a bridge, in the namespace of the fake internet."""
    ip = place.on_internet("ip")
    ip.ok("link", "add", "bench0", "type", "bridge")
    ip.ok("address", "add", f"{_SUBNET}.1/24", "dev", "bench0")
    ip.ok("link", "set", "bench0", "up")
    kernel = unpacked_kernel()
    machine = asyncio.run(boot.machine(kernel, scratch))
    with ExitStack() as stack:
        guests = [stack.enter_context(_plain_guest(place, kernel, machine, scratch, probe, n)) for n in (2, 3)]

        def on_host(line: str) -> str:
            return place.on_internet(os.fspath(probe)).ok(*line.split()[1:])

        yield Pair(guests[0].run, on_host, f"{_SUBNET}.3")
    ip.ok("link", "delete", "bench0")


@contextmanager
def _plain_guest(
    place: Outside, kernel: "boot.UnpackedKernel", machine: "boot.MachineSpec", scratch: Path, probe: Path, number: int
) -> Iterator[Guest]:
    ip, tap, mac = place.on_internet("ip"), f"bench{number}", f"02:77:00:00:00:{number:02x}"
    ip.ok("tuntap", "add", tap, "mode", "tap", "vnet_hdr")
    ip.ok("link", "set", tap, "master", "bench0", "up")
    devices = ["-netdev", f"tap,id=plain,ifname={tap},script=no,downscript=no,vhost=off"]
    devices += ["-device", f"virtio-net-pci,netdev=plain,mac={mac},romfile="]
    own = scratch / tap
    own.mkdir()
    within = place.on_internet().program
    with guest(kernel, machine, own, programs=[probe], devices=devices, within=within) as started:
        started.run(f"for d in /sys/class/net/*; do grep -q {mac} $d/address && n=${{d##*/}}; done; "
                    f"ip link set lo up; ip addr add {_SUBNET}.{number}/24 dev $n && ip link set $n up")  # fmt: skip
        started.run(f"probe sink {PORT} >/dev/null 2>&1 &")
        yield started
    ip.ok("tuntap", "delete", tap, "mode", "tap")


def measure_guests(rounds: int, place: Outside, probe: Path, scratch: Path) -> dict[str, Series]:
    """The figures of both pairs, by kind; what a pair can do differs from boot to boot: several of each."""
    series: dict[str, Series] = {kind: {OURS: [], PLAIN: []} for kind in KINDS}
    with bench_engine({"pool_size": 0}, place.within()) as engine:
        build_template(engine)
        image = make_probe_image(engine, scratch)
        for boot_number in range(BOOTS):
            with ExitStack() as stack:
                own = scratch / f"boot{boot_number}"
                own.mkdir()
                pairs = {
                    OURS: stack.enter_context(containers(engine, probe, image)),
                    PLAIN: stack.enter_context(plain_guests(place, probe, own)),
                }
                for number in range(rounds + 1):
                    for kind in KINDS:
                        for whose, pair in pairs.items():
                            wait_until_quiet()
                            value = pair.measure(kind)
                            if number > 0:
                                series[kind][whose].append(value)
    return series


def measure_ports(rounds: int, place: Outside) -> Series:
    """MiB/s through a published port of ours and through docker-proxy."""
    series: Series = {OURS: [], PROXY: []}
    with small_segment(place) as segment, docker_proxy(place) as proxy_port:
        [(_, port)] = segment.publish((SINK, "tcp", "127.0.0.1", 0))
        for number in range(rounds + 1):
            for whose, where in ((OURS, port), (PROXY, proxy_port)):
                wait_until_quiet()
                value = push_mib_s(place, where, PORT_MIB)
                if number > 0:
                    series[whose].append(value)
    return series


def measure_starts(rounds: int, place: Outside) -> Series:
    """Milliseconds that the engine takes to start a container from the pool, by what it is connected to."""
    series: Series = {"with a network": [], "without": []}
    with bench_engine({"pool_size": 1}, place.within()) as engine:
        build_template(engine)
        # The first container makes what networks need.
        engine.atoll.ok("run", "--rm", "busybox", "true")
        holder = engine.atoll.ok("run", "-d", "busybox", "sleep", "100000")
        for number in range(rounds + 1):
            for kind, mode in (("with a network", "bridge"), ("without", "none")):
                wait_until_pool_is(engine, 1)
                wait_until_quiet()
                body = {"Image": "busybox", "Cmd": ["true"], "HostConfig": {"NetworkMode": mode, "AutoRemove": True}}
                made = post(engine, "/containers/create", body)["Id"]
                began = time.perf_counter()
                post(engine, f"/containers/{made}/start")
                took = (time.perf_counter() - began) * 1e3
                engine.atoll("wait", made)
                if number > 0:
                    series[kind].append(took)
        engine.atoll.ok("rm", "-f", holder)
    return series


def judged(what: str, value: float, limit: float, *, least: bool) -> bool:
    """Print a figure beside its limit; whether the limit is broken."""
    is_broken = value < limit if least else value > limit
    print(f"{what} {value:.2f}, {'at least' if least else 'at most'} {limit:g}: {'BROKEN' if is_broken else 'ok'}")
    return is_broken


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median ratio of neighbours."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def main() -> None:
    """Measure, print, and compare with the limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rounds", type=int, default=5, help="runs that count, for guests in each boot (default: %(default)s)"
    )
    parser.add_argument("--only", choices=["guests", "ports", "starts"], help="only one part")
    options = parser.parse_args()
    broken = False
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-bench-")))
        scratch.chmod(0o755)
        (scratch / "outside").mkdir()
        place = stack.enter_context(outside(scratch / "outside"))
        probe = build_probe(scratch)
        if options.only in (None, "guests"):
            for kind, found in measure_guests(options.rounds, place, probe, scratch).items():
                title, unit, is_more_better = KINDS[kind]
                print_table(title, found, unit)
                ours, plain = found[OURS], found[PLAIN]
                broken |= judged(
                    "ratio", ratio(ours, plain) if is_more_better else ratio(plain, ours), LEAST, least=True
                )
        if options.only in (None, "ports"):
            found = measure_ports(options.rounds, place)
            print_table("through a published port", found, "MiB/s")
            broken |= judged("ratio", ratio(found[OURS], found[PROXY]), LEAST_PORT, least=True)
        if options.only in (None, "starts"):
            found = measure_starts(options.rounds * 3, place)
            print_table("start of a container from the pool", found)
            medians = {kind: statistics.median(values) for kind, values in found.items()}
            more = medians["with a network"] - medians["without"]
            broken |= judged("milliseconds that a network costs", more, MOST_START_MS, least=False)
    sys.exit(broken)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        try:
            main()
        except GuestFailed as error:
            sys.exit(f"bench/network: {error}")
