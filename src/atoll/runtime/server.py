"""A runtime's process: its socket, who may talk to it, and which request does what.

It listens before it boots, so that whoever forked it knows where it is. Its run directory goes as soon as the
container's exit is recorded, so that the container can be started again; connections that are open stay until
the VM is gone and every attached client has its output, so that an engine can tell by their end.
"""

import asyncio
import logging
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

import atoll
from atoll.channel import PROTOCOL, Connection, StreamReader, address, decode
from atoll.errors import Conflict, InvalidRequest
from atoll.model.agent import (
    Connect,
    Disconnect,
    Hello,
    ReadArchive,
    ReadChanges,
    ReadStream,
    Resize,
    Signal,
    StatPath,
    WriteArchive,
)
from atoll.model.container import BundleSpec, SpareSpec
from atoll.model.runtime import Attach, Claim, ExecStart, ExecWait, StartContainer, Stop, TakeStream, WaitLog
from atoll.runtime.address import listen
from atoll.runtime.container import Container
from atoll.runtime.execs import Execs
from atoll.runtime.files import Files
from atoll.runtime.vm import BootVm

_LOG = logging.getLogger(__name__)

# An engine that forks a runtime starts the container at once; one that died in between comes back or never does.
_UNUSED_S = 60.0
# Long enough for the engine that has asked for a spare to connect.
_UNCLAIMED_S = 5.0
_LAST_ANSWERS_S = 5.0


async def serve(spec: BundleSpec, boot_vm: BootVm, listening: Callable[[], None], taps: tuple[str, ...] = ()) -> None:
    """Run the container of `spec` to its end; `listening` is called when the socket is there.

    `taps` are the names of what is behind the VM's network devices.

    Raises `OSError` when the run directory or the log cannot be made.
    """
    with ExitStack() as run_dir, _listener(Path(spec.run_dir), run_dir) as listener:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(_serving(listener))
            listening()
            await server.live(spec, boot_vm, run_dir, taps)


async def serve_spare(
    spare: SpareSpec, boot_vm: BootVm, listening: Callable[[], None], taps: tuple[str, ...] = ()
) -> None:
    """Wait to be claimed for a container, and run that as `serve` does; return when the engine has hung up before.

    The engine gives the run directory the container's name before it claims.
    """
    with ExitStack() as run_dir, _listener(Path(spare.run_dir), run_dir) as listener:
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(_serving(listener))
            listening()
            spec = await server.claimed()
            if spec is None:
                return
            run_dir.pop_all()
            run_dir.callback(shutil.rmtree, spec.run_dir, ignore_errors=True)
            await server.live(spec, boot_vm, run_dir, taps)


@asynccontextmanager
async def _serving(listener: socket.socket) -> AsyncIterator["_Server"]:
    async with asyncio.TaskGroup() as tasks:
        server = _Server(tasks)
        accepting = tasks.create_task(server.accept(listener))
        try:
            yield server
        finally:
            accepting.cancel()
            await server.hang_up()


def _listener(run_dir: Path, cleanup: ExitStack) -> socket.socket:
    """Make the run directory, its removal a matter of `cleanup`, and listen in it."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    cleanup.callback(shutil.rmtree, run_dir, ignore_errors=True)
    return listen(run_dir)


def read_bundle_spec(config: str) -> BundleSpec:
    """What `config.json` of a bundle says; raises `OSError`, `msgspec.MsgspecError`."""
    return msgspec.json.decode(Path(config).read_bytes(), type=BundleSpec)


class _Server:
    """The connections to one container, or to a spare that has none yet."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._container: asyncio.Future[_Subject] = asyncio.get_running_loop().create_future()
        self._claim: asyncio.Future[BundleSpec | None] = asyncio.get_running_loop().create_future()
        self._connections: set[Connection] = set()
        self._was_used = False
        self._unused: asyncio.TimerHandle | None = None

    async def claimed(self) -> BundleSpec | None:
        """Wait for the claim; None when nobody is left who could."""
        self._note_use()
        return await self._claim

    async def claim(self, config: str) -> None:
        """Be the runtime of the container whose `BundleSpec` is in `config`; raises `Conflict`, `InvalidRequest`."""
        if self._claim.done() or self._container.done():
            raise Conflict("this runtime has its container already")
        try:
            self._claim.set_result(read_bundle_spec(config))
        except (OSError, msgspec.MsgspecError) as error:
            raise InvalidRequest(f"{config} describes no container: {error}") from error
        await self.container()

    async def live(self, spec: BundleSpec, boot_vm: BootVm, run_dir: ExitStack, taps: tuple[str, ...]) -> None:
        """Run the container to its end; `run_dir` is closed when its exit is known."""
        # This group ends when the VM is gone and every client has its output; only then do connections.
        async with asyncio.TaskGroup() as jobs:
            container = Container(spec, boot_vm, jobs, taps)
            self._container.set_result(_Subject(container, Execs(container), Files(container)))
            self._note_use()
            jobs.create_task(self._announce_end(container, run_dir))
            await container.run()

    async def container(self) -> "_Subject":
        """The container, when there is one."""
        return await asyncio.shield(self._container)

    async def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects and may."""
        async for client in address.clients(listener):
            self._tasks.create_task(self._serve(client))

    async def _announce_end(self, container: Container, run_dir: ExitStack) -> None:
        """When the container has ended: make room for its next runtime, then tell everybody."""
        status = await container.wait()
        run_dir.close()
        self._note_use()
        for connection in self._connections:
            connection.send_event("exited", status)

    async def hang_up(self) -> None:
        """Close all connections, once what was asked is answered."""
        async with asyncio.TaskGroup() as goodbyes:
            for connection in self._connections:
                goodbyes.create_task(connection.finish(_LAST_ANSWERS_S))

    async def _serve(self, client: socket.socket) -> None:
        connection = Connection(client, "the engine")
        self._connections.add(connection)
        self._was_used = True
        self._note_use()
        try:
            hello = Hello(protocol=PROTOCOL, agent_version=atoll.__version__, kernel=os.uname().release)
            await connection.serve(_Requests(self, connection).answer, hello)
        finally:
            self._connections.discard(connection)
            self._note_use()

    def _note_use(self) -> None:
        """A runtime that nobody is connected to, and that nobody has started, does not stay; a spare goes at once."""
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        if self._connections:
            return
        loop = asyncio.get_running_loop()
        if not self._container.done():
            self._unused = loop.call_later(0 if self._was_used else _UNCLAIMED_S, self._give_up)
        elif (container := self._container.result().container).is_unused:
            # One that is held is so for the sake of an engine that has gone.
            self._unused = loop.call_later(0 if container.state.is_held else _UNUSED_S, container.abandon)

    def _give_up(self) -> None:
        if not self._claim.done():
            self._claim.set_result(None)


class _Subject(NamedTuple):
    """What requests are about."""

    container: Container
    execs: Execs
    files: Files


class _Requests:
    """The requests of one connection, by name (`model/runtime.py`)."""

    def __init__(self, server: _Server, connection: Connection) -> None:
        self._server = server
        self._connection = connection
        self._taken: dict[int, StreamReader] = {}

    async def answer(self, method: str, parameters: Raw) -> Struct | None:
        """Carry out one request; raises what its method raises."""
        if method == "claim":
            await self._server.claim(decode(parameters, Claim).config)
            return None
        container, execs, files = await self._server.container()
        match method:
            case "start":
                return await container.start(waits=decode(parameters, StartContainer).waits)
            case "proceed":
                await container.proceed()
            case "hold":
                return await container.hold()
            case "release":
                await container.release()
            case "stat_path":
                return await files.stat(decode(parameters, StatPath))
            case "read_archive":
                await files.read(self._connection, method, decode(parameters, ReadArchive))
            case "take_stream":
                stream = decode(parameters, TakeStream).stream
                self._taken[stream] = self._connection.open_reader(stream)
            case "write_archive":
                archive = decode(parameters, WriteArchive)
                if (source := self._taken.pop(archive.stream, None)) is None:
                    raise InvalidRequest(f"stream {archive.stream} was not taken before")
                await files.write(source, archive)
            case "read_root" | "changes":
                await files.read(self._connection, method, decode(parameters, ReadStream))
            case "read_changes":
                await files.read(self._connection, method, decode(parameters, ReadChanges))
            case "state":
                return container.state
            case "wait":
                return await container.wait()
            case "pause":
                await container.pause()
            case "resume":
                await container.resume()
            case "processes":
                return await container.processes()
            case "statistics":
                return await container.statistics()
            case "stop":
                asked = decode(parameters, Stop)
                return await container.stop(asked.signal, asked.timeout_s)
            case "signal":
                await container.signal(decode(parameters, Signal))
            case "resize":
                await container.resize(decode(parameters, Resize))
            case "connect":
                await container.agent().connect(decode(parameters, Connect))
            case "disconnect":
                await container.agent().disconnect(decode(parameters, Disconnect))
            case "attach":
                container.attach(self._connection, decode(parameters, Attach))
            case "exec":
                return await execs.start(self._connection, decode(parameters, ExecStart))
            case "exec_wait":
                return await execs.wait(decode(parameters, ExecWait).id)
            case "wait_log":
                await container.wait_log(decode(parameters, WaitLog).after_records)
            case _:
                raise InvalidRequest(f"a runtime has no request '{method}'")
        return None
