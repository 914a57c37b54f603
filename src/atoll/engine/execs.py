"""Further processes in running containers: `docker exec`, from their creation to their exit code.

They are kept in memory, as in Docker: an engine that was restarted knows the containers, not their old execs. A
container keeps the last `REMEMBERED` that have ended, for clients that still want the exit code.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msgspec.structs import replace

from atoll.engine.container import Container
from atoll.engine.ending import start_exit_code
from atoll.engine.runtimes import Session
from atoll.engine.services import Tasks
from atoll.errors import AtollError, Conflict, InvalidRequest, NotFound
from atoll.model.agent import Process, Terminal

log = logging.getLogger("atoll.engine")

REMEMBERED = 100


@dataclass
class Exec:
    """One exec; `exit_code` is None until it has ended, `pid` 0 as the guest's pid means nothing to clients."""

    id: str
    container: Container
    process: Process
    privileged: bool
    attach_stdin: bool
    attach_stdout: bool
    attach_stderr: bool
    detach_keys: str = ""
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    command: str = field(init=False)

    def __post_init__(self) -> None:
        self.command = " ".join(self.process.arguments)

    @property
    def has_terminal(self) -> bool:
        """Whether its output is one raw stream."""
        return self.process.terminal is not None


class Execs:
    """All execs, by id."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._by_id: dict[str, Exec] = {}

    def get(self, exec_id: str) -> Exec:
        """By full id; raises `NotFound`."""
        try:
            return self._by_id[exec_id]
        except KeyError:
            raise NotFound(f"No such exec instance: {exec_id}") from None

    def of(self, container: Container) -> list[str]:
        """The ids of a container's execs that have not ended."""
        return [exec.id for exec in self._by_id.values() if exec.container is container and exec.exit_code is None]

    def create(
        self,
        container: Container,
        process: Process,
        *,
        privileged: bool,
        attach: tuple[bool, bool, bool],
        detach_keys: str = "",
    ) -> Exec:
        """A new exec, not started; raises `Conflict` unless the container runs, `InvalidRequest` without a command."""
        if not process.arguments or not process.arguments[0]:
            raise InvalidRequest("No exec command specified")
        container.runtime_for("exec")
        exec = Exec(secrets.token_hex(32), container, process, privileged, *attach, detach_keys)
        self._forget_old(container)
        self._by_id[exec.id] = exec
        container.publish(f"exec_create: {exec.command}", execID=exec.id)
        return exec

    @asynccontextmanager
    async def start(self, exec: Exec, terminal: Terminal | None) -> AsyncIterator[Session]:
        """Start it and be attached for as long as the block lasts; the process outlives the block.

        Raises `Conflict` when it was started before, `StartFailed`.
        """
        self.check_startable(exec)
        runtime = exec.container.runtime_for("exec")
        exec.started = True
        process = exec.process
        if terminal is not None and exec.has_terminal:
            process = replace(process, terminal=terminal)
        wants_output = exec.attach_stdout or exec.attach_stderr
        session_context = runtime.exec(
            exec.id, process, privileged=exec.privileged, stdin=exec.attach_stdin, stdout=wants_output
        )
        exec.running = True
        try:
            session = await session_context.__aenter__()
        except AtollError as error:
            exec.exit_code = start_exit_code(error)
            exec.running = False
            exec.ended.set()
            raise
        exec.container.publish(f"exec_start: {exec.command}", execID=exec.id)
        self._tasks.spawn(self._watch(exec), f"watch over exec {exec.id[:12]}")
        try:
            yield session
        finally:
            await session_context.__aexit__(None, None, None)

    def check_startable(self, exec: Exec) -> None:
        """Raises `Conflict` when it was started before, or its container does not run."""
        if exec.started:
            raise Conflict(f"Error: Exec command {exec.id} is already running")
        exec.container.runtime_for("exec")

    async def _watch(self, exec: Exec) -> None:
        runtime = exec.container.runtime
        try:
            exec.exit_code = await runtime.exec_wait(exec.id) if runtime is not None else 137
        except AtollError as error:
            log.info("exec %s ended with its container: %s", exec.id[:12], error)
            exec.exit_code = 137
        exec.running = False
        exec.ended.set()
        exec.container.publish("exec_die", execID=exec.id, exitCode=str(exec.exit_code))

    async def resize(self, exec: Exec, rows: int, columns: int) -> None:
        """The size of its terminal; raises `Conflict` when it does not run."""
        if not exec.running:
            raise Conflict(f"exec process is not running: {exec.id}")
        await exec.container.runtime_for("resize").resize(exec.id, rows, columns)

    def forget(self, container: Container) -> None:
        """A removed container's execs go with it."""
        self._by_id = {id: exec for id, exec in self._by_id.items() if exec.container is not container}

    def _forget_old(self, container: Container) -> None:
        ended = [exec.id for exec in self._by_id.values() if exec.container is container and exec.exit_code is not None]
        for exec_id in ended[:-REMEMBERED]:
            del self._by_id[exec_id]
