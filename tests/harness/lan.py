"""A segment with the taps of three containers on it, whose VMs the test plays: it holds the taps' other ends."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from atoll.model.network import Endpoint, Network, SegmentSpec, Subnet
from atoll.network.client import SegmentClient, start_segment
from atoll.network.keeper_client import Keeper, start_keeper
from atoll.network.segment.bridge import bridge_mac
from harness.ethernet import IPV4, IPV6, UDP, Host, Port, frame, ipv4, ipv6, udp
from harness.process import Process

NETWORK_ID = "5e6" + "0" * 61
GATEWAY_MAC = bridge_mac(NETWORK_ID)
GATEWAY, GATEWAY6 = "203.0.113.1", "2001:db8:5e6::1"
A, B, C = (Host(f"02:5e:60:00:00:0{number}", f"203.0.113.{number}", f"2001:db8:5e6::{number}") for number in (2, 3, 4))
NAMES = ("a", "b", "c")


class Lan:
    """A network with the taps of three containers on it."""

    def __init__(self, directory: Path, keeper: Keeper, segment: SegmentClient, ports: list[Port]) -> None:
        self.directory, self.keeper, self.segment, self.ports = directory, keeper, segment, ports

    @property
    def endpoints(self) -> list[Endpoint]:
        """The containers, with their taps."""
        return [
            Endpoint(id=name, mac=port.host.mac, ipv4=port.host.ipv4, ipv6=port.host.ipv6, tap=port.name)
            for name, port in zip(NAMES, self.ports, strict=True)
        ]

    async def forged(self, name: str = "a") -> int:
        """How many frames of a container were dropped as forged."""
        return (await self.segment.counters())[name].forged

    async def arriving(self, at: Port, *sent: bytes, by: Port) -> list[bytes]:
        """What of `sent`, by one container, arrives at another: an honest frame behind them shows when all has."""
        marker = honest(by.host, at.host, b"marker")
        for data in (*sent, marker):
            by.send(data)
        came = await at.receive_until(lambda data: data == marker)
        return [data for data in came if data in sent]


def network(**changes: object) -> Network:
    """A network of documentation addresses."""
    given = {
        "id": NETWORK_ID,
        "name": "lan",
        "created_at": datetime.now(UTC),
        "ipv4": Subnet("203.0.113.0/24", GATEWAY),
        "ipv6": Subnet("2001:db8:5e6::/64", GATEWAY6),
        "internal": True,
    }
    return Network(**(given | changes))  # type: ignore[arg-type]


def spec(**changes: object) -> SegmentSpec:
    """That network without a way out."""
    return SegmentSpec(network=network(**changes), uplink="none")


@contextmanager
def engine_directory() -> Iterator[Path]:
    """A directory for keeper and segments; at the end none of their processes may be left."""
    path = Path(tempfile.mkdtemp(prefix="atoll-segment-", dir="/tmp"))
    yield path
    for process in processes_of(path):
        process.wait(timeout_s=20)
    left = [entry.name for entry in path.iterdir() if entry.suffix != ".lock"]
    shutil.rmtree(path)
    assert not left, f"left behind: {left}"


@asynccontextmanager
async def make_lan(directory: Path, **changes: object) -> AsyncIterator[Lan]:
    """Three containers on a network with `changes`."""
    async with AsyncExitStack() as stack:
        keeper = await stack.enter_async_context(await start_keeper(directory))
        segment = await start_segment(directory, NETWORK_ID)
        ports = []
        for host in (A, B, C):
            (tap,) = await keeper.taps(1)
            ports.append(Port(tap.name, tap.fd, host))
            stack.callback(ports[-1].close)
        lan = Lan(directory, keeper, segment, ports)
        await segment.configure(spec(**changes), ())
        for endpoint in lan.endpoints:
            await segment.put(Endpoint(id=endpoint.id, mac=endpoint.mac, ipv4=endpoint.ipv4, ipv6=endpoint.ipv6))
            await segment.plug(endpoint.id, endpoint.tap)
        try:
            yield lan
        finally:
            await lan.segment.stop()


def processes_of(directory: Path) -> list[Process]:
    """Keeper and segments of an engine's directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(directory).encode() in (entry / "cmdline").read_bytes():
                found.append(Process.of(int(entry.name)))
        except (OSError, ProcessLookupError):
            continue
    return found


def honest(source: Host, target: Host, data: bytes = b"hello") -> bytes:
    """A datagram from one container to another."""
    packet = ipv4(source.ipv4, target.ipv4, UDP, udp(source.ipv4, target.ipv4, 7, 7, data))
    return frame(source.mac, target.mac, IPV4, packet)


def honest6(source: Host, target: Host, data: bytes = b"hello") -> bytes:
    """The same over IPv6."""
    packet = ipv6(source.ipv6, target.ipv6, UDP, udp(source.ipv6, target.ipv6, 7, 7, data))
    return frame(source.mac, target.mac, IPV6, packet)
