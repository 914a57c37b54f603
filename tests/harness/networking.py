"""What tests of networks do with an engine: an image to probe with, a container's addresses, clearing up."""

import asyncio
import json
from pathlib import Path
from typing import NamedTuple

from atoll.network.client import SegmentClient
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

    async def ask() -> int:
        segment = await SegmentClient.connect(engine.root / "run" / "net", network_id)
        try:
            return (await segment.counters())[container.id].forged
        finally:
            await segment.close()

    return asyncio.run(ask())


def segments(engine: EngineUnderTest) -> list[Process]:
    """The processes of an engine's segments."""
    return [process for process in engine.processes() if "atoll.network.segment" in str(process)]
