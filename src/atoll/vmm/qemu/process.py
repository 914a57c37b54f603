"""QEMU as a process: unprivileged, ended by the kernel when we end, its complaints kept.

QEMU is started through setpriv(1), which gives up what QEMU must not have and then becomes it, so the pid is QEMU's.
"""

import asyncio
import os
import shutil
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import Unavailable
from atoll.vmm.monitor import MachineSpec

KVM = Path("/dev/kvm")
_COMPLAINT_BYTES = 4096
_NICE = 10
_COMPLAINT_LINES = 4


class Complaints(asyncio.Protocol):
    """The end of what a process writes to its standard error."""

    def __init__(self) -> None:
        self._tail = bytearray()
        self._ended = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:
        """Keep the last of it."""
        self._tail += data
        del self._tail[:-_COMPLAINT_BYTES]

    def connection_lost(self, exc: Exception | None) -> None:
        """The process, and whatever else held the pipe, has closed it."""
        if not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Wait until there is no more to come."""
        await asyncio.shield(self._ended)

    def __str__(self) -> str:
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines() if line.strip()]
        return "; ".join(line.removeprefix("qemu-system-x86_64: ") for line in lines[-_COMPLAINT_LINES:])


@dataclass(frozen=True)
class Running:
    """A QEMU that was started, perhaps ended since."""

    process: Process
    complaints: Complaints


@asynccontextmanager
async def running(spec: MachineSpec, arguments: Sequence[str], descriptors: Sequence[int]) -> AsyncIterator[Running]:
    """QEMU with `arguments`, inheriting `descriptors`; killed, if it still runs, when the context ends.

    Raises `Unavailable` when QEMU or setpriv is not installed.
    """
    command = [*_unprivileged(spec), *while_we_live(), _program(spec.qemu, "qemu-system-x86"), *arguments]
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as read_end:
        try:
            # The kernel's death signal follows the thread that forks: this one, which lives as long as the process.
            process = await asyncio.create_subprocess_exec(
                *command, stdin=DEVNULL, stdout=DEVNULL, stderr=writer, pass_fds=descriptors
            )
        finally:
            os.close(writer)
        try:
            loop = asyncio.get_running_loop()
            transport, complaints = await loop.connect_read_pipe(Complaints, read_end)
            try:
                yield Running(process, complaints)
            finally:
                transport.close()
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def set_priority(pid: int, *, low: bool) -> None:
    """Make every thread of a process nice, or not. Only root may take niceness back, so only root gives it."""
    if os.geteuid() != 0:
        return
    with suppress(FileNotFoundError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICE if low else 0)


def _unprivileged(spec: MachineSpec) -> list[str]:
    setpriv = [_program("setpriv", "util-linux"), "--pdeathsig", "KILL", "--no-new-privs"]
    if spec.uid is None:
        return setpriv
    # The only device that QEMU opens itself is KVM's.
    groups = ["--clear-groups"] if spec.accelerator != "kvm" else ["--groups", str(KVM.stat().st_gid)]
    identity = ["--reuid", str(spec.uid), "--regid", str(spec.uid), *groups]
    return [*setpriv, *identity, "--inh-caps", "-all", "--bounding-set", "-all"]


def while_we_live() -> list[str]:
    """Becomes the program that follows, unless we ended before the kernel was told to end it with us."""
    return ["/bin/sh", "-c", 'test "$PPID" = "$0" && exec "$@"', str(os.getpid())]


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Unavailable(f"{name} is not on this host: install the package {package}, or put it on PATH")
    return found
