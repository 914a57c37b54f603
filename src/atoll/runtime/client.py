"""The engine's side of a runtime: its requests as methods, standard streams as sessions.

One connection carries everything that an engine has to do with one container: any number of requests and
sessions at once. A connection that is lost raises `AgentFailed` (a `VmFailed`) in everybody who uses it.
"""

import asyncio
import os
import signal
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

from msgspec import Raw, Struct
from msgspec.structs import replace

from atoll.channel import Connection, StreamsReader, StreamStopped, StreamWriter, decode
from atoll.errors import Conflict, Unavailable, VmFailed
from atoll.model.agent import (
    Connect,
    Disconnect,
    PathStat,
    Process,
    ProcessList,
    ReadArchive,
    ReadChanges,
    ReadStream,
    Resize,
    Signal,
    Started,
    Statistics,
    StatPath,
    Stdio,
    WriteArchive,
)
from atoll.model.container import ExitStatus
from atoll.model.network import Interface
from atoll.model.runtime import (
    Attach,
    Claim,
    ExecExit,
    ExecStart,
    ExecWait,
    RuntimeState,
    StartContainer,
    Stop,
    TakeStream,
    WaitLog,
)
from atoll.runtime.address import connect

Output = tuple[Literal["stdout", "stderr"], bytes]

# For what a runtime answers out of itself or its agent at once. What waits for the container has no deadline here.
_SOON_S = 30.0
_HELLO_S = 10.0


class Session:
    """The standard streams of one process, as one client sees them."""

    def __init__(self, stdin: StreamWriter | None, output: StreamsReader | None, stdio: Stdio) -> None:
        self.stdin = stdin
        self._output = output
        self._stderr = stdio.stderr

    async def output(self) -> AsyncIterator[Output]:
        """Pieces of at most 64 KiB in the order in which they were written, until all streams have ended.

        Not taking them stops the process that writes. Raises `VmFailed` when the connection is lost before the end.
        """
        if self._output is None:
            return
        while piece := await self._output.read():
            if piece.data:
                yield ("stderr" if piece.stream == self._stderr else "stdout", piece.data)

    def leave(self) -> None:
        """Take no more output, send no more input."""
        if self._output is not None:
            self._output.stop()
        if self.stdin is not None:
            self.stdin.end()


class RuntimeClient:
    """A connection to one container's runtime; made by `connect`, ended by `close`."""

    def __init__(self, sock: socket.socket) -> None:
        peer = struct.Struct("3i")
        self.pid, _, _ = peer.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, peer.size))
        self._connection = Connection(sock, "the container's runtime", self._take_event)
        self._exit: ExitStatus | None = None

    @classmethod
    async def connect(cls, run_dir: Path) -> "RuntimeClient":
        """Connect to the runtime that listens in `run_dir`; raises `Unavailable` when none does."""
        try:
            sock = connect(run_dir)
        except OSError as error:
            raise Unavailable(f"no runtime listens in {run_dir}: {error.strerror}") from error
        client = cls(sock)
        try:
            await client._connection.greet(_HELLO_S)
        except TimeoutError:
            raise VmFailed(f"the runtime in {run_dir} (process {client.pid}) does not answer: kill it") from None
        return client

    async def close(self) -> None:
        """Hang up; the runtime goes on."""
        self._connection.close("the engine hung up")

    async def wait_gone(self) -> None:
        """Wait until the runtime has ended: its VM is gone and the writable disk free."""
        await self._connection.wait_closed()

    @property
    def is_connected(self) -> bool:
        """Whether the runtime is there, as far as we have heard."""
        return not self._connection.is_closed

    def kill(self) -> None:
        """SIGKILL the runtime, and its VM with it."""
        if not self._connection.is_closed:
            os.kill(self.pid, signal.SIGKILL)

    async def claim(self, config: Path) -> None:
        """Make a spare the runtime of the container whose `BundleSpec` is in `config`; raises `VmFailed`."""
        await self._connection.call("claim", Claim(config=str(config)), None, _SOON_S)

    async def start(self, *, waits: bool = False) -> RuntimeState:
        """Start the first process, once the VM is up, and with `waits` not before `proceed`.

        Raises `StartFailed` or `VmFailed`.
        """
        return await self._connection.call("start", StartContainer(waits=waits), RuntimeState, None)

    async def proceed(self) -> None:
        """What a start that `waits` has waited for is there."""
        await self._connection.call("proceed", None, None, _SOON_S)

    async def hold(self) -> RuntimeState:
        """Put the container together without running it; raises `StartFailed` or `VmFailed`."""
        return await self._connection.call("hold", None, RuntimeState, None)

    async def release(self) -> None:
        """End what `hold` began; the VM is gone when the runtime is."""
        await self._connection.call("release", None, None, _SOON_S)

    async def state(self) -> RuntimeState:
        """The state now."""
        return await self._connection.call("state", None, RuntimeState, _SOON_S)

    async def stop(self, signal: int, timeout_s: float | None) -> ExitStatus:
        """`signal` to the first process, SIGKILL after `timeout_s` seconds (None: never); waits for the end."""
        return await self._ending(
            self._connection.call("stop", Stop(signal=signal, timeout_s=timeout_s), ExitStatus, None)
        )

    async def wait(self) -> ExitStatus:
        """Wait for the end of the container: its last byte of output is logged, its exit is recorded."""
        return await self._ending(self._connection.call("wait", None, ExitStatus, None))

    async def _ending(self, answer: Awaitable[ExitStatus]) -> ExitStatus:
        """The end that was told: a runtime that has said how its container ended may be gone before it is asked."""
        try:
            return await answer
        except (VmFailed, Conflict):
            if self._exit is None:
                raise
            return self._exit

    def _take_event(self, name: str, parameters: Raw) -> None:
        if name == "exited":
            self._exit = decode(parameters, ExitStatus)

    async def signal(self, process: str, signal: int) -> None:
        """Send a signal to `init` or an exec; raises `Conflict` when it does not run."""
        await self._connection.call("signal", Signal(id=process, signal=signal), None, _SOON_S)

    async def resize(self, process: str, rows: int, columns: int) -> None:
        """Set the size of a process's terminal."""
        await self._connection.call("resize", Resize(id=process, rows=rows, columns=columns), None, _SOON_S)

    async def pause(self) -> None:
        """Stop the VM's processors."""
        await self._connection.call("pause", None, None, _SOON_S)

    async def resume(self) -> None:
        """Let the VM's processors go on."""
        await self._connection.call("resume", None, None, _SOON_S)

    async def processes(self) -> ProcessList:
        """The container's processes."""
        return await self._connection.call("processes", None, ProcessList, _SOON_S)

    async def statistics(self) -> Statistics:
        """The container's use of resources."""
        return await self._connection.call("statistics", None, Statistics, _SOON_S)

    async def connect_network(self, interface: Interface, files: Mapping[str, bytes]) -> None:
        """Give the container one more interface, and new contents of files; raises `Conflict`, `StartFailed`."""
        await self._connection.call("connect", Connect(interface=interface, files=dict(files)), None, _SOON_S)

    async def disconnect_network(self, pci: str, files: Mapping[str, bytes]) -> None:
        """Take the interface in slot `pci` away; raises `NotFound`, `Conflict`."""
        await self._connection.call("disconnect", Disconnect(pci=pci, files=dict(files)), None, _SOON_S)

    async def wait_log(self, after_records: int) -> None:
        """Wait until the log's last record has a number above `after_records`, or the container has ended."""
        await self._connection.call("wait_log", WaitLog(after_records=after_records), None, None)

    async def exec_wait(self, exec_id: str) -> int:
        """Wait for the end of an exec; its exit code."""
        return (await self._connection.call("exec_wait", ExecWait(id=exec_id), ExecExit, None)).code

    async def stat_path(self, path: str) -> PathStat:
        """What a path of the container is; raises `NotFound`."""
        return await self._connection.call("stat_path", StatPath(path=path), PathStat, None)

    def read_archive(self, path: str) -> AsyncGenerator[bytes]:
        """A path of the container and all below it, as a tar."""
        return self._read("read_archive", lambda stream: ReadArchive(path=path, stream=stream))

    def read_root(self) -> AsyncGenerator[bytes]:
        """The whole root as a tar."""
        return self._read("read_root", lambda stream: ReadStream(stream=stream))

    def changes(self) -> AsyncGenerator[bytes]:
        """What was changed since the image, as `model/agent.py` has it."""
        return self._read("changes", lambda stream: ReadStream(stream=stream))

    def read_changes(self, *, freeze: bool) -> AsyncGenerator[bytes]:
        """All that was written, as an image layer's tar; with `freeze` the processes stand still meanwhile."""
        return self._read("read_changes", lambda stream: ReadChanges(stream=stream, freeze=freeze))

    async def write_archive(self, path: str, archive: AsyncIterator[bytes], *, no_overwrite_dir_non_dir: bool) -> None:
        """Extract a tar into a directory; raises `NotFound`, `InvalidRequest`, and what `archive` raises."""
        writer = self._connection.open_writer()
        await self._connection.call("take_stream", TakeStream(stream=writer.stream), None, _SOON_S)
        asked = WriteArchive(path=path, stream=writer.stream, no_overwrite_dir_non_dir=no_overwrite_dir_non_dir)
        work = asyncio.ensure_future(self._connection.call("write_archive", asked, None, None))
        sending = asyncio.ensure_future(_send(archive, writer))
        try:
            await asyncio.wait((work, sending), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
            await work
        finally:
            await _end(work, sending)
            writer.end()

    async def _read(self, method: str, request: Callable[[int], Struct]) -> AsyncGenerator[bytes]:
        """What a request brings over a stream; whoever stops before its end closes the generator."""
        reader = self._connection.open_reader()
        work = asyncio.ensure_future(self._connection.call(method, request(reader.stream), None, None))
        # A request that is refused brings nothing, not even an end.
        work.add_done_callback(lambda work: reader.stop() if work.cancelled() or work.exception() else None)
        try:
            async for data in reader:
                yield data
            await work
        finally:
            reader.stop()
            await _end(work)

    @asynccontextmanager
    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool, close_stdin: bool) -> AsyncIterator[Session]:
        """The first process's streams from now on, also before `start`; leaving the block detaches.

        With `close_stdin` the end of the session's input, and leaving, is the process's end-of-file.
        """
        session, stdio = self._open_streams(stdin, stdout, stderr)
        try:
            await self._connection.call("attach", Attach(stdio=stdio, close_stdin=close_stdin), None, _SOON_S)
            yield session
        finally:
            session.leave()

    @asynccontextmanager
    async def exec(
        self, exec_id: str, process: Process, *, privileged: bool, stdin: bool, stdout: bool
    ) -> AsyncIterator[Session]:
        """Start one more process; raises `StartFailed`. Leaving the block detaches, the process goes on.

        What `process` leaves empty of user, capabilities, limits and environment is the container's.
        """
        session, stdio = self._open_streams(stdin, stdout, stdout and process.terminal is None)
        try:
            start = ExecStart(id=exec_id, privileged=privileged, process=replace(process, stdio=stdio))
            await self._connection.call("exec", start, Started, None)
            yield session
        finally:
            session.leave()

    def _open_streams(self, stdin: bool, stdout: bool, stderr: bool) -> tuple[Session, Stdio]:
        writer = self._connection.open_writer() if stdin else None
        stdio = Stdio(
            stdin=writer.stream if writer is not None else None,
            stdout=self._connection.next_stream() if stdout else None,
            stderr=self._connection.next_stream() if stderr else None,
        )
        outputs = [stream for stream in (stdio.stdout, stdio.stderr) if stream is not None]
        reader = self._connection.open_readers(*outputs) if outputs else None
        return Session(writer, reader, stdio), stdio


async def _send(archive: AsyncIterator[bytes], writer: StreamWriter) -> None:
    with suppress(StreamStopped):  # why it takes no more, its answer says
        async for data in archive:
            await writer.write(data)
    writer.end()


async def _end(*tasks: "asyncio.Future[None]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
