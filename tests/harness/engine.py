"""An engine that belongs to a test run: its own root under a short path, started and stopped as a user would.

The root's path is in the environment of every process that the engine starts, on its command line or among
its open files, and so `leftovers` finds what was left behind without knowing how a container is made.
"""

import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.checkout import TOOLS, program
from harness.command import Command
from harness.process import Process, processes_that_mention


@dataclass(frozen=True)
class EngineUnderTest:
    """One engine's root, and the commands that talk to it."""

    root: Path
    atoll: Command
    docker: Command
    sockets: str = "/proc/net/unix"
    """Where the kernel lists the sockets of the network namespace that it runs in."""

    @property
    def socket(self) -> Path:
        """The engine's unix socket."""
        return self.root / "run" / "atoll.sock"

    @property
    def process(self) -> Process:
        """The engine's process, told by the kernel from the listening socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(os.fspath(self.socket))
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return Process.of(struct.unpack("3i", credentials)[0])

    def start(self) -> None:
        """`atoll system start`."""
        self.atoll.ok("system", "start")

    def stop(self) -> None:
        """`atoll system stop`."""
        self.atoll.ok("system", "stop")

    def kill(self) -> None:
        """`kill -9` of the engine; returns when it is gone."""
        self.process.kill(signal.SIGKILL)

    def log(self) -> str:
        """What the engine wrote to its log."""
        file = self.root / "engine.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def processes(self) -> list[Process]:
        """Every process that belongs to this engine: itself, its runtimes, their VMs."""
        return processes_that_mention(os.fspath(self.root))

    def leftovers(self) -> list[str]:
        """Processes, mounts and sockets that still refer to this engine's root, one line each."""
        mark = os.fspath(self.root)
        found = [f"process {process}" for process in self.processes()]
        found += [f"mount {line}" for line in _lines("/proc/self/mountinfo") if mark in line]
        found += [f"socket {line}" for line in _lines(self.sockets) if mark in line]
        return found


@contextmanager
def engine_root(uid: int = 0) -> Iterator[Path]:
    """A new root directory of `uid`'s with a path short enough for unix sockets (108 bytes), removed at the end."""
    root = Path(tempfile.mkdtemp(prefix="atoll-", dir="/tmp"))
    if uid:
        os.chown(root, uid, uid)
    # QEMU runs as a user of its own and must be able to pass through.
    root.chmod(0o755)
    try:
        yield root
    finally:
        shutil.rmtree(root)


def engine_at(root: Path, within: tuple[str, ...] = (), sockets: str = "/proc/net/unix") -> EngineUnderTest:
    """The engine of `root` with its commands, whose lines begin with `within`; starts nothing."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ATOLL_", "DOCKER_"))}
    environment = {
        **inherited,
        "PATH": f"{inherited['PATH']}:{TOOLS}",
        "ATOLL_ROOT": os.fspath(root),
        # Whoever it runs as, the home of who runs the tests is not theirs.
        **({"HOME": os.fspath(root)} if within else {}),
        "DOCKER_HOST": f"unix://{root}/run/atoll.sock",
        "DOCKER_CONFIG": os.fspath(root / "docker-config"),
    }
    if "ATOLL_AGENT" in os.environ:
        environment["ATOLL_AGENT"] = os.environ["ATOLL_AGENT"]
    return EngineUnderTest(
        root=root,
        atoll=Command((*within, os.fspath(_atoll())), environment),
        docker=Command((*within, os.fspath(program("docker"))), environment),
        sockets=sockets,
    )


def _atoll() -> Path:
    beside_python = Path(sys.executable).parent / "atoll"
    return beside_python if beside_python.exists() else program("atoll")


def _lines(path: str) -> list[str]:
    return Path(path).read_text(errors="replace").splitlines()
