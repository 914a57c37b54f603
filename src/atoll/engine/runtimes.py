"""What the engine needs of a container's runtime, and of whatever launches one.

`launch.py` has the real ones (a process forked by the zygote, reached over its socket); tests put a double here.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

from atoll.engine.record import ContainerRecord
from atoll.model.agent import PathStat, Process, ProcessList, Statistics
from atoll.model.container import ExitStatus
from atoll.model.network import Interface
from atoll.model.runtime import RuntimeState, StartReport

Output = tuple[Literal["stdout", "stderr"], bytes]


class Stdin(Protocol):
    """The way to a process's standard input."""

    async def write(self, data: bytes) -> None:
        """Send everything, waiting while the process does not read; raises `StreamStopped` when it takes no more."""

    def end(self) -> None:
        """End of file."""


class Session(Protocol):
    """The standard streams of one process as one client sees them; leaving the block detaches."""

    @property
    def stdin(self) -> Stdin | None:
        """None when it was not asked for."""

    def output(self) -> AsyncIterator[Output]:
        """Pieces in the order in which they were written, until both streams have ended."""


SessionContext = AbstractAsyncContextManager[Session]


class Runtime(Protocol):
    """A connection to one container's runtime. A lost connection raises `VmFailed`."""

    async def start(self, *, waits: bool = False) -> RuntimeState:
        """Boot and start the first process, with `waits` not before `proceed`; raises `StartFailed` or `VmFailed`."""

    async def proceed(self) -> None:
        """What a start that `waits` has waited for is there."""

    async def hold(self) -> RuntimeState:
        """Put the container together without running it, for work on its files; raises as `start`."""

    async def release(self) -> None:
        """End what `hold` began; `wait_gone` tells when its VM is gone."""

    async def stat_path(self, path: str) -> PathStat:
        """What a path of the container is; raises `NotFound`."""

    def read_archive(self, path: str) -> AsyncGenerator[bytes]:
        """A path and all below it, as a tar; whoever stops before its end closes the generator, here and below."""

    def read_root(self) -> AsyncGenerator[bytes]:
        """The whole root as a tar."""

    def changes(self) -> AsyncGenerator[bytes]:
        """What was changed since the image (`model/agent.py`)."""

    def read_changes(self, *, freeze: bool) -> AsyncGenerator[bytes]:
        """All that was written, as an image layer's tar."""

    async def write_archive(self, path: str, archive: AsyncIterator[bytes], *, no_overwrite_dir_non_dir: bool) -> None:
        """Extract a tar into a directory; raises `NotFound`, `InvalidRequest`, and what `archive` raises."""

    async def state(self) -> RuntimeState:
        """The state now."""

    async def stop(self, signal: int, timeout_s: float | None) -> ExitStatus:
        """`signal`, and SIGKILL after `timeout_s`."""

    async def wait(self) -> ExitStatus:
        """The end of the container."""

    async def signal(self, process: str, signal: int) -> None:
        """To `init` or an exec."""

    async def resize(self, process: str, rows: int, columns: int) -> None:
        """The terminal of `init` or an exec."""

    async def pause(self) -> None:
        """Freeze the VM."""

    async def resume(self) -> None:
        """Let it run on."""

    async def processes(self) -> ProcessList:
        """The container's processes."""

    async def statistics(self) -> Statistics:
        """The container's use of resources."""

    async def connect_network(self, interface: Interface, files: Mapping[str, bytes]) -> None:
        """One more interface, up when this returns; `files` replaces contents of the container's identity files."""

    async def disconnect_network(self, pci: str, files: Mapping[str, bytes]) -> None:
        """Without the interface in this slot."""

    def attach(self, *, stdin: bool, stdout: bool, stderr: bool, close_stdin: bool) -> SessionContext:
        """The first process's streams from now on."""

    def exec(self, exec_id: str, process: Process, *, privileged: bool, stdin: bool, stdout: bool) -> SessionContext:
        """One more process, started when the block is entered."""

    async def exec_wait(self, exec_id: str) -> int:
        """The exec's exit code."""

    async def wait_log(self, after_records: int) -> None:
        """More than so many log records, or the end."""

    def kill(self) -> None:
        """SIGKILL the runtime and its VM with it."""

    async def wait_gone(self) -> None:
        """The runtime has ended: its VM is gone and the writable disk free."""

    async def close(self) -> None:
        """Hang up; the runtime goes on."""


class Launcher(Protocol):
    """Makes runtimes, and finds those that are there."""

    async def launch(self, record: ContainerRecord) -> Runtime:
        """A new runtime for the container, its VM booting; raises `Unavailable`, `NotFound`, `VmFailed`."""

    def started(self, record: ContainerRecord, report: StartReport | None) -> None:
        """What has been launched has started, or has failed to (None)."""

    async def find(self, record: ContainerRecord) -> Runtime | None:
        """The runtime that an earlier engine launched, if it still runs."""

    def adopted(self, record: ContainerRecord) -> None:
        """The runtime that was found goes on."""

    def clean_up(self, record: ContainerRecord) -> None:
        """Remove what a runtime that is gone left, should it have been killed."""

    def last_exit(self, record: ContainerRecord) -> ExitStatus | None:
        """What the container's last runtime left behind."""
