"""Runtimes without VMs: a launcher whose containers live in memory, for tests of the engine and the API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from atoll.engine.record import ContainerRecord
from atoll.engine.runtimes import Output
from atoll.errors import AgentFailed, AtollError
from atoll.model.agent import Process, ProcessList, ProcessRow, Statistics
from atoll.model.container import ContainerState, ExitStatus
from atoll.model.network import Interface
from atoll.model.runtime import RuntimeState, StartReport


class MemoryStdin:
    """Standard input that remembers what was typed."""

    def __init__(self) -> None:
        self.typed = bytearray()
        self.ended = asyncio.Event()

    async def write(self, data: bytes) -> None:
        """Take everything."""
        self.typed += data

    def end(self) -> None:
        """End of file."""
        self.ended.set()


class MemorySession:
    """Streams whose output the test provides."""

    def __init__(self, stdin: bool) -> None:
        self.stdin = MemoryStdin() if stdin else None
        self._pieces: asyncio.Queue[Output | None] = asyncio.Queue()

    def say(self, piece: Output | None) -> None:
        """Output; None is its end."""
        self._pieces.put_nowait(piece)

    async def output(self) -> AsyncIterator[Output]:
        """What was said."""
        while (piece := await self._pieces.get()) is not None:
            yield piece


class MemoryRuntime:
    """One container that does what the test says."""

    def __init__(self, launcher: "MemoryLauncher", record: ContainerRecord) -> None:
        self._launcher = launcher
        self._record = record
        self._exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._gone = asyncio.Event()
        self._may_proceed = asyncio.Event()
        self.started_at: datetime | None = None
        self.is_held = False
        self.container_state = ContainerState.CREATED
        self.sessions: list[MemorySession] = []
        self.exec_codes: dict[str, asyncio.Future[int]] = {}
        self.signals: list[tuple[str, int]] = []
        self.sizes: list[tuple[str, int, int]] = []
        self.taps = tuple(f"at{record.id[:6]}.{slot}" for slot in range(4))
        self.interfaces: dict[str, Interface] = {}
        self.files: dict[str, bytes] = {}

    async def start(self, *, waits: bool = False) -> RuntimeState:
        """Fail as the test wants, or run."""
        await self._launcher.may_start.wait()
        if waits and self._launcher.start_error is None:
            await self._may_proceed.wait()
        if self._launcher.start_error is not None:
            # As a real one, it goes away after it has said why.
            self.kill()
            raise self._launcher.start_error
        if self._gone.is_set():
            raise AgentFailed("killed")
        self.started_at = datetime.now(UTC)
        self.container_state = ContainerState.RUNNING
        return await self.state()

    async def proceed(self) -> None:
        """Let a start go on."""
        self._may_proceed.set()

    async def hold(self) -> RuntimeState:
        """As `start`, with nothing running."""
        await self._launcher.may_start.wait()
        if self._launcher.start_error is not None:
            self.kill()
            raise self._launcher.start_error
        self.is_held = True
        return await self.state()

    async def release(self) -> None:
        """Go, as after an end of which nothing is recorded."""
        self._gone.set()
        self._launcher.runtimes.pop(self._record.id, None)

    async def state(self) -> RuntimeState:
        """The state now."""
        return RuntimeState(
            state=self.container_state,
            pid=4242,
            started_at=self.started_at,
            is_held=self.is_held,
            taps=self.taps,
        )

    def end(self, code: int, *, out_of_memory: bool = False) -> None:
        """The process ends."""
        status = ExitStatus(
            code=code, started_at=self.started_at, finished_at=datetime.now(UTC), out_of_memory=out_of_memory
        )
        for session in self.sessions:
            session.say(None)
        self._gone.set()
        self._launcher.leave(self._record.id, status)
        if not self._exit.done():
            self._exit.set_result(status)

    def vanish(self) -> None:
        """`kill -9` of the runtime: nothing is written, the connection breaks."""
        self.kill()

    def kill(self) -> None:
        """As `vanish`."""
        self._gone.set()
        self._may_proceed.set()
        self._launcher.leave(self._record.id, None)
        self._launcher.may_start.set()
        if not self._exit.done():
            self._exit.set_exception(AgentFailed("the connection to the runtime is lost"))

    async def stop(self, signal: int, timeout_s: float | None) -> ExitStatus:
        """End with 128 + signal."""
        self.signals.append(("init", signal))
        self.container_state = ContainerState.STOPPING
        if not self._launcher.ignores_stop:
            self.end(128 + signal)
        return await asyncio.shield(self._exit)

    async def wait(self) -> ExitStatus:
        """The end."""
        return await asyncio.shield(self._exit)

    async def signal(self, process: str, signal: int) -> None:
        """Remember it."""
        self.signals.append((process, signal))

    async def resize(self, process: str, rows: int, columns: int) -> None:
        """Remember it."""
        self.sizes.append((process, rows, columns))

    async def pause(self) -> None:
        """Freeze."""
        self.container_state = ContainerState.PAUSED

    async def resume(self) -> None:
        """Go on."""
        self.container_state = ContainerState.RUNNING

    async def processes(self) -> ProcessList:
        """One process."""
        row = ProcessRow(
            pid=1, parent_pid=0, user="root", command="sleep 1000", name="sleep", state="S", terminal="",
            started_s=0.0, cpu_s=61.0, resident_bytes=4096, virtual_bytes=8192,
        )  # fmt: skip
        return ProcessList(rows=(row,))

    async def statistics(self) -> Statistics:
        """Figures."""
        return Statistics(
            cpu_usage_us=10, cpu_user_us=6, cpu_system_us=4, online_cpus=2, memory_bytes=1 << 20,
            memory_peak_bytes=2 << 20, memory_file_bytes=0, memory_anonymous_bytes=0, memory_inactive_file_bytes=0,
            memory_limit_bytes=0, guest_memory_total_bytes=1 << 30, guest_memory_available_bytes=1 << 29, pids=1,
            block_read_bytes=1, block_write_bytes=2, oom_kills=0,
        )  # fmt: skip

    async def connect_network(self, interface: Interface, files: Mapping[str, bytes]) -> None:
        """Note the interface and the files."""
        self.interfaces[interface.pci] = interface
        self.files |= files

    async def disconnect_network(self, pci: str, files: Mapping[str, bytes]) -> None:
        """Note that it is gone."""
        self.interfaces.pop(pci, None)
        self.files |= files

    @asynccontextmanager
    async def attach(
        self, *, stdin: bool, stdout: bool, stderr: bool, close_stdin: bool
    ) -> AsyncIterator[MemorySession]:
        """A session that gets what `say` says."""
        session = MemorySession(stdin)
        self.sessions.append(session)
        yield session
        self.sessions.remove(session)

    @asynccontextmanager
    async def exec(
        self, exec_id: str, process: Process, *, privileged: bool, stdin: bool, stdout: bool
    ) -> AsyncIterator[MemorySession]:
        """A session of an exec; `end_exec` ends it."""
        if self._launcher.exec_error is not None:
            raise self._launcher.exec_error
        self.exec_codes[exec_id] = asyncio.get_running_loop().create_future()
        session = MemorySession(stdin)
        self.sessions.append(session)
        yield session
        self.sessions.remove(session)

    async def exec_wait(self, exec_id: str) -> int:
        """The exec's exit code."""
        return await self.exec_codes[exec_id]

    def say(self, piece: Output | None) -> None:
        """Output to everybody who is attached."""
        for session in self.sessions:
            session.say(piece)

    async def wait_log(self, after_records: int) -> None:
        """Until the end."""
        await asyncio.wait([self._exit])

    async def wait_gone(self) -> None:
        """The end, when the test lets it go."""
        await self._gone.wait()
        await self._launcher.may_go.wait()

    async def close(self) -> None:
        """Nothing to do."""


class MemoryLauncher:
    """Launches `MemoryRuntime`s and keeps them, as a host keeps processes, when an engine goes."""

    def __init__(self) -> None:
        self.runtimes: dict[str, MemoryRuntime] = {}
        self.exits: dict[str, ExitStatus] = {}
        self.launches = 0
        self.launch_error: AtollError | None = None
        self.start_error: AtollError | None = None
        self.exec_error: AtollError | None = None
        self.ignores_stop = False
        self.may_launch, self.may_start, self.may_go = (asyncio.Event() for _ in range(3))
        for gate in (self.may_launch, self.may_start, self.may_go):
            gate.set()
        self.reports: list[StartReport | None] = []
        self.cleaned_up: list[str] = []
        self.launched = asyncio.Condition()

    async def launch(self, record: ContainerRecord) -> MemoryRuntime:
        """A new runtime, when the test lets it come."""
        await self.may_launch.wait()
        if self.launch_error is not None:
            raise self.launch_error
        assert record.id not in self.runtimes, "two runtimes for one container"
        self.exits.pop(record.id, None)
        runtime = self.runtimes[record.id] = MemoryRuntime(self, record)
        self.launches += 1
        async with self.launched:
            self.launched.notify_all()
        return runtime

    async def has_launched(self, count: int) -> None:
        """Wait for so many launches in all."""
        async with asyncio.timeout(10), self.launched:
            await self.launched.wait_for(lambda: self.launches >= count)

    def started(self, record: ContainerRecord, report: StartReport | None) -> None:
        """Remember what was told."""
        self.reports.append(report)

    async def find(self, record: ContainerRecord) -> MemoryRuntime | None:
        """One that runs."""
        return self.runtimes.get(record.id)

    def adopted(self, record: ContainerRecord) -> None:
        """See `Launcher.adopted`."""

    def clean_up(self, record: ContainerRecord) -> None:
        """Nothing is left; remember whose."""
        self.cleaned_up.append(record.id)

    def last_exit(self, record: ContainerRecord) -> ExitStatus | None:
        """What the last one left."""
        return self.exits.get(record.id)

    def leave(self, container_id: str, status: ExitStatus | None) -> None:
        """A runtime is gone."""
        self.runtimes.pop(container_id, None)
        if status is not None:
            self.exits[container_id] = status
