"""What tests of networks do with an engine: an image to probe with, a container's addresses, clearing up."""

import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

from harness.checkout import CHECKOUT
from harness.command import Command
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import BUSYBOX_CHANGES, build_probe, probe_root
from harness.process import Process

PROBE = "probe:1"


class Addresses(NamedTuple):
    """Who a container is on a network, as `inspect` shows it."""

    mac: str
    ipv4: str
    ipv6: str
    gateway: str
    gateway_ipv6: str


def addresses(container: Container, network: str) -> Addresses:
    """A container's addresses on `network`."""
    found = container.inspect()["NetworkSettings"]["Networks"][network]
    return Addresses(
        found["MacAddress"],
        found["IPAddress"],
        found["GlobalIPv6Address"],
        found["Gateway"],
        found["IPv6Gateway"],
    )


def make_probe_image(engine: EngineUnderTest, directory: Path) -> str:
    """The image with busybox and `probe` in an engine; returns its name."""
    tar = engine.root / "probe.tar"
    tar.write_bytes(probe_root(build_probe(directory)))
    tar.chmod(0o644)
    changes = [word for change in BUSYBOX_CHANGES for word in ("--change", change)]
    engine.atoll.ok("image", "import", *changes, tar, PROBE)
    tar.unlink()
    return PROBE


def remove_all(engine: EngineUnderTest) -> None:
    """Remove every container, and every network that somebody made."""
    if names := engine.atoll.ok("ps", "-aq").split():
        engine.atoll.ok("rm", "-f", *names)
    engine.atoll.ok("network", "prune", "-f")


def forged_frames(engine: EngineUnderTest, container: Container, network: str) -> int:
    """How many frames of a container its network has dropped for bearing what is not its own."""
    network_id = json.loads(engine.atoll.ok("network", "inspect", network))[0]["Id"]

    command = (*engine.atoll.program[:-1], sys.executable, "-m", "harness.segment_counters")
    ask = Command(command, {**engine.atoll.environment, "PYTHONPATH": os.fspath(CHECKOUT / "tests")})
    found = json.loads(ask.ok(engine.root / "run" / "net", network_id))
    return int(found[container.id]["forged"])


def segments(engine: EngineUnderTest) -> list[Process]:
    """The processes of an engine's segments."""
    return [process for process in engine.processes() if "atoll.network.segment" in str(process)]
