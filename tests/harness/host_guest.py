"""A guest without a VM: its agent speaks the real protocol and runs the processes as children of the test.

It lets the runtime be tested as a whole, sockets, streams, log and all, in milliseconds. What only a real guest
can show (mounts, namespaces, users) is tested in `tests/integration`.
"""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from msgspec import Raw, Struct

from atoll.channel import PROTOCOL, Connection, StreamReader, StreamStopped, StreamWriter, decode
from atoll.errors import AtollError, BootFailed, CommandNotExecutable, CommandNotFound, NotFound
from atoll.guest import Agent
from atoll.model.agent import Disk, Exec, Exited, Hello, Process, ProcessList, Signal, Start, Started
from atoll.model.container import BundleSpec
from atoll.model.runtime import StartReport
from atoll.runtime.vm import Console, Vm
from atoll.vmm import DiskSource


class HostAgent:
    """The agent's side of the channel."""

    def __init__(self, sock: socket.socket) -> None:
        self.connection = Connection(sock, "the host")
        self.started: list[Start] = []
        self._sent_bytes = 0
        self._has_sent = asyncio.Event()
        self.has_start = asyncio.Event()
        self._may_proceed = asyncio.Event()
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until the host hangs up; nothing that was started survives."""
        try:
            async with asyncio.TaskGroup() as self._tasks:
                await self.connection.serve(self._answer, Hello(protocol=PROTOCOL, agent_version="test", kernel="none"))
                self.kill_all()
        finally:
            self.kill_all()

    async def sent(self, output_bytes: int) -> None:
        """Wait until so much output of processes has left, and send nothing after it."""
        while self._sent_bytes < output_bytes:
            self._has_sent.clear()
            await self._has_sent.wait()
        await self.connection.finish(5)

    def kill_all(self) -> None:
        """SIGKILL every process."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def signal(self, name: str, number: int) -> None:
        """Signal one process."""
        self._processes[name].send_signal(number)

    async def _answer(self, method: str, parameters: Raw) -> Struct | None:
        match method:
            case "start":
                request = decode(parameters, Start)
                self.started.append(request)
                self.has_start.set()
                if request.waits:
                    await self._may_proceed.wait()
                return await self._spawn("init", request.process)
            case "proceed":
                self._may_proceed.set()
            case "exec":
                more = decode(parameters, Exec)
                return await self._spawn(more.id, more.process)
            case "signal":
                asked = decode(parameters, Signal)
                if asked.id not in self._processes:
                    raise NotFound(f"no process {asked.id}")
                self.signal(asked.id, asked.signal)
            case "processes":
                return ProcessList(rows=())
            case "ping" | "prepare_template" | "forget":
                pass
            case "poweroff":
                asyncio.get_running_loop().call_soon(self.connection.close, "powered off")
        return None

    async def _spawn(self, name: str, process: Process) -> Started:
        assert self._tasks is not None
        pipes = asyncio.subprocess.PIPE
        nothing = asyncio.subprocess.DEVNULL
        stdio = process.stdio
        try:
            child = await asyncio.create_subprocess_exec(
                *process.arguments,
                env=dict(entry.split("=", 1) for entry in process.environment),
                stdin=nothing if stdio.stdin is None else pipes,
                stdout=nothing if stdio.stdout is None else pipes,
                stderr=nothing if stdio.stderr is None else pipes,
                start_new_session=True,
                limit=65_536,
            )
        except FileNotFoundError:
            raise CommandNotFound(f"{process.arguments[0]}: no such file or directory") from None
        except PermissionError:
            raise CommandNotExecutable(f"{process.arguments[0]}: permission denied") from None
        self._processes[name] = child
        if stdio.stdin is not None and child.stdin is not None:
            self._tasks.create_task(_feed(self.connection.open_reader(stdio.stdin), child.stdin))
        outputs = [
            self._tasks.create_task(self._drain(pipe, self.connection.open_writer(number)))
            for pipe, number in ((child.stdout, stdio.stdout), (child.stderr, stdio.stderr))
            if pipe is not None and number is not None
        ]
        self._tasks.create_task(self._reap(name, child, outputs))
        return Started(pid=child.pid)

    async def _reap(self, name: str, child: asyncio.subprocess.Process, outputs: list["asyncio.Task[None]"]) -> None:
        code = await child.wait()
        if outputs:
            await asyncio.wait(outputs)
        self.connection.send_event("exited", Exited(id=name, code=code if code >= 0 else 128 - code))

    async def _drain(self, pipe: asyncio.StreamReader, stream: StreamWriter) -> None:
        with suppress(AtollError, StreamStopped):
            while data := await pipe.read(65_536):
                await stream.write(data)
                self._sent_bytes += len(data)
                self._has_sent.set()
            stream.end()


async def _feed(source: StreamReader, pipe: asyncio.StreamWriter) -> None:
    with suppress(OSError, AtollError):
        async for data in source:
            pipe.write(data)
            await pipe.drain()
    pipe.close()


class HostMachine:
    """A machine that is a guest in this process; `end` is how it comes to its end."""

    def __init__(self, guest: HostAgent, agent: socket.socket, unused: socket.socket) -> None:
        self.guest = guest
        self.agent = agent
        self.console = self.share = unused
        self.pid = os.getpid()
        self.is_paused = False
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Nothing to boot."""

    async def pause(self) -> None:
        """Note it."""
        self.is_paused = True

    async def resume(self) -> None:
        """Note it."""
        self.is_paused = False

    async def quit(self, deadline_s: float = 5.0) -> None:
        """The machine's end, as QEMU's `quit` makes it."""
        self.end(0)

    async def grow(self, added_mib: int) -> None:
        """Nothing to add."""

    async def change_disks(
        self, image: DiskSource | None, writable: Path | None, volumes: DiskSource | None = None
    ) -> None:
        """Nothing to put them behind."""

    def set_priority(self, *, low: bool) -> None:
        """Nothing to slow."""

    async def save(self) -> None:
        """Nothing to save."""

    @property
    def complaints(self) -> str:
        """Never any."""
        return ""

    async def wait(self) -> int:
        """The exit status."""
        return await asyncio.shield(self._ended)

    def end(self, status: int) -> None:
        """The end: negative for a signal."""
        if not self._ended.done():
            self._ended.set_result(status)
        self.guest.connection.close("the machine ended")


class HostVms:
    """Boots such guests, and remembers the last one; `boot_error` makes the next boot fail."""

    def __init__(self) -> None:
        self.boot_error: BootFailed | None = None
        self.booted = asyncio.Event()
        self.machine: HostMachine

    @asynccontextmanager
    async def boot(self, spec: BundleSpec, on_exited: Callable[[Exited], None]) -> AsyncIterator[Vm]:
        """As `atoll.runtime.bootstrap.boot_vm`."""
        if self.boot_error is not None:
            raise self.boot_error
        ours, theirs = socket.socketpair()
        guest = HostAgent(theirs)
        with socket.socket(socket.AF_UNIX) as unused:
            async with asyncio.TaskGroup() as tasks:
                serving = tasks.create_task(guest.run())
                self.machine = HostMachine(guest, ours, unused)
                async with Agent(ours, on_exited) as agent:
                    await agent.hello(10)
                    self.booted.set()
                    yield Vm(
                        machine=self.machine,
                        agent=agent,
                        console=Console(unused),
                        report=StartReport(kind="cold"),
                        image=Disk(pci="0000:00:05.0"),
                        writable=None if spec.writable_disk is None else Disk(pci="0000:00:06.0"),
                        volumes=Disk(pci="0000:00:0a.0"),
                    )
                self.machine.end(0)
                await asyncio.wait([serving])
