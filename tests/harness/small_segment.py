"""A segment without VMs, and one "container": a namespace with servers in it. Filter and rules are the real ones.

`python -m harness.small_segment` is started on the host, as root or not. It prints `ready`, then reads one JSON object
a line (`{"put": [[container_port, protocol, host_ip, host_port], ...]}`, `{"uplink": "pasta"}`, `{"remove": true}`,
`{"run": ["curl", ...]}` in the container) and answers with one; at the end of its input it closes, and ends.

    br0 10.83.0.1 fd83::1  ----  container 10.83.0.2 fd83::2: the servers of `peer`
"""

import asyncio
import ctypes
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from atoll.errors import AtollError
from atoll.model.network import Endpoint, Network, PortBinding, Protocol, SegmentSpec, Subnet
from atoll.network.segment.egress import Egress
from atoll.network.segment.filter import Filter
from atoll.network.segment.nftables import Nftables
from atoll.network.segment.outlet import Outlet, fork_outlet
from atoll.network.segment.ports import Ports
from atoll.network.segment.uplink.uplink import Uplink
from atoll.network.uplinks import host_addresses

GATEWAYS = ("10.83.0.1", "fd83::1")
MAC = "02:00:00:00:00:02"
CONTAINER = ("10.83.0.2", "fd83::2")
ECHO, WHO, SINK, RESET, ANSWER = 7, 8, 9, 10, 11
"""Ports of the container: what comes is sent back; one's own address; nothing; a reset; 1 MiB, then what it has got."""
NETWORK = Network(
    id="0123456789abcdef" * 4,
    name="reef",
    created_at=datetime.now(UTC),
    ipv4=Subnet("10.83.0.0/24", GATEWAYS[0]),
    ipv6=Subnet("fd83::/64", GATEWAYS[1]),
)
_NEW_NETWORK, _NEW_USER = 0x40000000, 0x10000000
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Be the segment."""
    outside = fork_outlet()
    addresses = host_addresses()
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_NEW_NETWORK | (_NEW_USER if uid else 0))
    if uid:
        for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
            Path("/proc/self", name).write_text(line)
    container = _fork_container()
    _connect(container)
    try:
        asyncio.run(_serve(outside, container, addresses))
    finally:
        os.kill(container, signal.SIGKILL)
        os.waitpid(container, 0)


async def _serve(outside: socket.socket, container: int, addresses: tuple[str, ...]) -> None:
    outlet = Outlet(outside)
    nftables = Nftables()
    filters, egress = Filter(nftables), Egress(nftables)
    uplink, ports = Uplink(outlet), Ports(outlet, silence_s=float(os.environ.get("SILENCE_S", "90")))
    endpoint = Endpoint(id="c0ffee" * 10, mac=MAC, tap="tap0", ipv4=CONTAINER[0], ipv6=CONTAINER[1], names=("fish",))
    spec = SegmentSpec(network=NETWORK, uplink="none", host_addresses=addresses)
    for part in (filters, egress, uplink, ports):
        await part.configure(spec)
    await filters.put(endpoint)
    await egress.put(endpoint)
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        answer: Any = None
        try:
            match json.loads(line):
                case {"put": bindings}:
                    wanted = tuple(
                        PortBinding(
                            container_port=port,
                            protocol=cast(Protocol, protocol),
                            host_ip=ip,
                            host_port=chosen,
                            host_port_last=next(iter(last), 0),
                        )
                        for port, protocol, ip, chosen, *last in bindings
                    )
                    answer = [(one.host_ip, one.host_port) for one in await ports.put(replace(endpoint, ports=wanted))]
                case {"remove": _}:
                    await ports.remove(endpoint.id)
                case {"uplink": kind, "to_host": to_host}:
                    wanted_spec = replace(spec, uplink=kind, to_host=to_host)
                    await egress.configure(wanted_spec)
                    await uplink.configure(wanted_spec)
                case {"run": command}:
                    words = ["nsenter", f"--net=/proc/{container}/ns/net", *command]
                    answer = (await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True)).stdout
                case {"descriptors": _}:
                    answer = sum(1 for _ in os.scandir("/proc/self/fd"))
        except AtollError as error:
            answer = {"error": type(error).__name__, "words": str(error)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)
    await ports.close()
    await uplink.close()
    outlet.close()


def _unshare(what: int) -> None:
    if _LIBC.unshare(what):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _fork_container() -> int:
    """The container's process, in a network namespace of its own; it serves once it has its address."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _unshare(_NEW_NETWORK)
        os.write(writer, b"x")
        peer()
        os._exit(0)
    os.read(reader, 1)
    return pid


def _connect(container: int) -> None:
    inside = ["nsenter", f"--net=/proc/{container}/ns/net"]
    commands = [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "link", "add", "br0", "type", "bridge"],
        ["ip", "link", "set", "br0", "up"],
        ["ip", "address", "add", f"{GATEWAYS[0]}/24", "dev", "br0"],
        ["ip", "address", "add", f"{GATEWAYS[1]}/64", "dev", "br0", "nodad"],
        ["ip", "link", "add", "tap0", "type", "veth", "peer", "name", "eth0", "address", MAC, "netns", str(container)],
        ["ip", "link", "set", "tap0", "master", "br0", "up"],
        [*inside, "ip", "link", "set", "lo", "up"],
        [*inside, "ip", "address", "add", f"{CONTAINER[0]}/24", "dev", "eth0"],
        [*inside, "ip", "address", "add", f"{CONTAINER[1]}/64", "dev", "eth0", "nodad"],
        [*inside, "ip", "link", "set", "eth0", "up"],
        [*inside, "ip", "route", "add", "default", "via", GATEWAYS[0]],
        [*inside, "ip", "route", "add", "default", "via", GATEWAYS[1]],
        # What the part `links` would do.
        ["sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"],
    ]
    for command in commands:
        subprocess.run(command, check=True)


def peer() -> None:
    """The container's servers."""
    for family in (socket.AF_INET, socket.AF_INET6):
        for port, serve in ((ECHO, _echo), (WHO, _who), (SINK, _sink), (RESET, _reset), (ANSWER, _answer)):
            threading.Thread(target=_listen, args=(family, port, serve), daemon=True).start()
        threading.Thread(target=_echo_datagrams, args=(family,), daemon=True).start()
    threading.Event().wait()


def _listen(family: int, port: int, serve: Callable[[socket.socket], None]) -> None:
    threading.stack_size(256 << 10)
    with socket.create_server(("", port), family=family, backlog=4096) as listener:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_served, args=(client, serve), daemon=True).start()


def _served(client: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    with client:
        try:
            serve(client)
        except OSError:
            return


def _echo(client: socket.socket) -> None:
    while piece := client.recv(1 << 18):
        client.sendall(piece)


def _who(client: socket.socket) -> None:
    client.sendall("{} {}".format(*client.getpeername()[:2]).encode())


def _sink(client: socket.socket) -> None:
    buffer = bytearray(1 << 20)
    while client.recv_into(buffer):
        pass


def _reset(client: socket.socket) -> None:
    client.recv(1)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _answer(client: socket.socket) -> None:
    """A server that answers before it reads: both directions, and each has its own end."""
    client.sendall(bytes(1 << 20))
    client.shutdown(socket.SHUT_WR)
    count = 0
    while piece := client.recv(1 << 16):
        count += len(piece)
    Path(f"/tmp/atoll-test-{count}").touch()


def _echo_datagrams(family: int) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(("", ECHO))
        while True:
            datagram, client = sock.recvfrom(1 << 16)
            answer = "{} {}".format(*client[:2]).encode() if datagram == b"who" else datagram
            sock.sendto(answer, client)


if __name__ == "__main__":
    main()
