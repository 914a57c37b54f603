"""A place for a segment's parts without VMs: namespaces for the segment, two guests, and what is outside.

    a: 10.83.0.2, fd12::2  --.
                           br0 (segment: 10.83.0.1, fd12::1)  uplink 203.0.113.2 -- 203.0.113.1 (outside)
    b: 10.83.0.3, fd12::3  --'                                    198.51.100.80, 169.254.169.254, ...

All of it runs in the test's process: a thread enters a namespace for as long as it makes sockets there.
"""

import asyncio
import ctypes
import os
import secrets
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from atoll.model.network import Egress, Endpoint, Network, SegmentSpec, Subnet

P = ParamSpec("P")
T = TypeVar("T")

GATEWAY = ("10.83.0.1", "fd12::1")
WEB = ("198.51.100.80", "2001:db8:80::80")
OTHER_WEB = ("198.51.100.81", "2001:db8:80::81")
RESOLVERS = ("198.51.100.53", "2001:db8:80::53")
METADATA = "169.254.169.254"
HOST = "203.0.113.1"
_CLONE_NEWNET = 0x40000000
_SEGMENT = """
link add br0 type bridge
link set br0 up
link set lo up
address add 10.83.0.1/24 dev br0
address add fd12::1/64 dev br0 nodad
link add uplink type veth peer name outer netns {outside}
address add 203.0.113.2/24 dev uplink
address add 2001:db8::2/64 dev uplink nodad
link set uplink up
link add to_a type veth peer name eth0 netns {a}
link add to_b type veth peer name eth0 netns {b}
link set to_a master br0 up
link set to_b master br0 up
"""
_ROUTES = """
route add default via 203.0.113.1
route add default via 2001:db8::1
"""
_GUEST = """
link set lo up
address add 10.83.0.{number}/24 dev eth0
address add fd12::{number}/64 dev eth0 nodad
link set eth0 up
route add default via 10.83.0.1
route add default via fd12::1
"""
_OUTSIDE = """
link set lo up
address add 203.0.113.1/24 dev outer
address add 2001:db8::1/64 dev outer nodad
link set outer up
"""


@dataclass(frozen=True)
class Namespace:
    """A network namespace by its name in /run/netns."""

    name: str

    @contextmanager
    def entered(self) -> Iterator[None]:
        """This thread is in it: sockets that are made here belong to it for good."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        there = os.open(Path("/run/netns", self.name), os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(there)
            try:
                yield
            finally:
                _enter(before)
        finally:
            os.close(there)
            os.close(before)

    async def run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Call a function that blocks, in a thread that is there."""
        return await asyncio.to_thread(partial(self._run, function, *arguments, **named))

    def _run(self, function: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        with self.entered():
            return function(*arguments, **named)

    def ip(self, batch: str) -> None:
        """Carry out lines of ip(8)."""
        line = ["ip", "-netns", self.name, "-force", "-batch", "-"]
        done = subprocess.run(line, input=batch, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def program(self, *line: str) -> str:
        """What a program prints that runs there."""
        return subprocess.run(
            ["ip", "netns", "exec", self.name, *line], capture_output=True, text=True, check=True
        ).stdout

    @contextmanager
    def resolv_conf(self, text: str) -> Iterator[None]:
        """Programs that run there have this /etc/resolv.conf: `ip netns exec` sees to it."""
        directory = Path("/etc/netns", self.name)
        directory.mkdir(parents=True)
        file = directory / "resolv.conf"
        file.write_text(text)
        try:
            yield
        finally:
            file.unlink()
            directory.rmdir()
            with suppress(OSError):  # others are there
                directory.parent.rmdir()


@dataclass(frozen=True)
class Place:
    """The namespaces."""

    segment: Namespace
    a: Namespace
    b: Namespace
    outside: Namespace


class OpenOutlet:
    """A stand-in for the segment's outlet: sockets in the namespace of what is outside, or where the test is."""

    def __init__(self, outside: Namespace | None = None) -> None:
        self._outside = outside
        self.sockets: list[socket.socket] = []

    async def datagram(self, family: int) -> socket.socket:
        """A UDP socket out there."""
        opened = self._open(family, socket.SOCK_DGRAM)
        self.sockets.append(opened)
        return opened

    async def connect(self, ip: str, port: int) -> socket.socket:
        """A TCP connection from out there."""
        opened = self._open(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        try:
            await asyncio.get_running_loop().sock_connect(opened, (ip, port))
        except BaseException:
            opened.close()
            raise
        return opened

    def _open(self, family: int, kind: socket.SocketKind) -> socket.socket:
        with ExitStack() as stack:
            if self._outside is not None:
                stack.enter_context(self._outside.entered())
            return socket.socket(family, kind | socket.SOCK_NONBLOCK)


@contextmanager
def segment_place() -> Iterator[Place]:
    """The namespaces, connected; gone at the end."""
    with ExitStack() as stack:
        names = ("segment", "a", "b", "outside")
        place = Place(*(stack.enter_context(_namespace(name)) for name in names))
        others = {name: getattr(place, name).name for name in names}
        place.segment.ip(_SEGMENT.format(**others))
        place.outside.ip(_OUTSIDE)
        place.segment.ip(_ROUTES)
        for address in (*WEB, *OTHER_WEB, *RESOLVERS, METADATA):
            place.outside.ip(f"address add {address}/{128 if ':' in address else 32} dev lo")
        for number, guest in ((2, place.a), (3, place.b)):
            guest.ip(_GUEST.format(number=number))
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            place.segment.program("sysctl", "-qw", f"net.{name}=1")
        yield place


def spec(
    *,
    uplink: str = "veth",
    resolvers: tuple[str, ...] = (),
    domain: str = "",
    reaches_metadata: bool = False,
    isolated: bool = False,
    gateway: tuple[str, str] = GATEWAY,
    to_host: bool = False,
) -> SegmentSpec:
    """The segment that the place is for."""
    network = Network(
        id="5e" * 32,
        name="reef",
        created_at=datetime.now(UTC),
        ipv4=Subnet("10.83.0.0/24", gateway[0]),
        ipv6=Subnet("fd12::/64", gateway[1]),
        internal=uplink == "none",
        isolated=isolated,
        reaches_metadata=reaches_metadata,
    )
    assert uplink in ("none", "veth")
    return SegmentSpec(
        network=network,
        uplink="none" if uplink == "none" else "veth",
        resolvers=resolvers,
        host_addresses=(HOST,),
        domain=domain,
        to_host=to_host,
    )


def endpoint(
    number: int, *names: str, egress: Egress | None = None, foreign: dict[str, tuple[str, ...]] | None = None
) -> Endpoint:
    """A container: number 2 is the guest `a`, 3 is `b`."""
    return Endpoint(
        id=f"{number:02x}" * 32,
        mac=f"02:00:00:00:00:{number:02x}",
        ipv4=f"10.83.0.{number}",
        ipv6=f"fd12::{number:x}",
        names=names,
        foreign_names=foreign or {},
        egress=egress or Egress(),
    )


@contextmanager
def _namespace(kind: str) -> Iterator[Namespace]:
    name = f"test-{kind}-{secrets.token_hex(3)}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield Namespace(name)
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
