"""The way out through pasta(1): no privilege, and no change of the host.

pasta opens a tap in the segment's namespace and makes of what comes out of it sockets of the host's. It goes to the
background by itself once that tap is configured, and ends when the tap is deleted, or with us. We are the process that
orphans are given to, so it becomes our child.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from atoll.errors import Unavailable
from atoll.network.segment.uplink.link import INTERFACE, Link

_DEADLINE_S = 10
_PR_SET_CHILD_SUBREAPER = 36
# pasta gives up the capability to look into /proc/PID/ns before it does so, and later versions close what they inherit:
# a namespace of mounts in which the segment's has a name, and which goes with pasta.
_BIND = 'mount --bind "/proc/self/fd/$0" "$1" && shift && exec "$@"'


class Pasta:
    """A running pasta."""

    def __init__(self, link: Link, network: int, user: int, *, to_host: bool) -> None:
        """Start it for the namespaces `network` and `user`; `to_host`: the link's gateways are the host's loopback."""
        pasta = shutil.which("pasta")
        if pasta is None:
            raise Unavailable("networks need pasta: install the package passt, or put it on PATH")
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.link = link
        self._ended = False
        with tempfile.TemporaryDirectory(prefix="atoll-pasta-") as name:
            pid_file = Path(name) / "pid"
            mount_point = Path(name) / "net"
            mount_point.touch()
            # fmt: off
            options = [
                pasta, "--quiet", "--config-net", "--no-netns-quit",
                "--ns-ifname", INTERFACE,
                "--address", link.ipv4.partition("/")[0],
                "--netmask", link.ipv4.partition("/")[2],
                "--gateway", link.gateway4,
                "--address", link.ipv6.partition("/")[0],
                "--gateway", link.gateway6,
                # Published ports are ours, and nobody asks for addresses.
                "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
                "--no-dhcp", "--no-dhcpv6", "--no-ra",
                "--pid", str(pid_file),
                *([] if to_host else ["--no-map-gw"]),
            ]
            # fmt: on
            enter = ["unshare", "--mount", "sh", "-c", _BIND, str(network), str(mount_point)]
            if os.fstat(user).st_ino == Path("/proc/self/ns/user").stat().st_ino:
                # Root: pasta would become `nobody`, who cannot enter a namespace of root's.
                options += ["--runas", "0"]
            else:
                enter = ["nsenter", f"--user=/proc/self/fd/{user}", "--preserve-credentials", *enter]
            _run([*enter, *options, "--netns", str(mount_point)], (network, user))
            self._pid = int(pid_file.read_text())

    def is_alive(self) -> bool:
        """Whether it still runs."""
        if not self._ended:
            with suppress(ChildProcessError):
                self._ended = os.waitpid(self._pid, os.WNOHANG) != (0, 0)
        return not self._ended

    def close(self) -> None:
        """End it; the tap goes with it."""
        number = signal.SIGTERM
        deadline = time.monotonic() + _DEADLINE_S
        while self.is_alive():
            os.kill(self._pid, number)
            time.sleep(0.002)
            if time.monotonic() > deadline:
                number = signal.SIGKILL


def _run(command: list[str], descriptors: Sequence[int]) -> None:
    try:
        # Its standard error goes to a file: the process in the background would keep a pipe open.
        with tempfile.TemporaryFile() as complaints:
            status = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                pass_fds=descriptors,
                timeout=_DEADLINE_S,
                check=False,
            ).returncode
            complaints.seek(0)
            words = complaints.read().decode(errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"pasta could not be started: {error}") from error
    if status != 0:
        lines = [line for line in words.splitlines() if line.strip() and "syslog" not in line]
        raise Unavailable(f"pasta could not make the network's way out: {'; '.join(lines[-3:]) or f'status {status}'}")
