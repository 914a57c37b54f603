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
import struct
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from msgspec import Raw, Struct

import atoll
from atoll.channel import PROTOCOL, Connection, decode
from atoll.errors import InvalidRequest
from atoll.model.agent import Hello, Resize, Signal
from atoll.model.container import BundleSpec
from atoll.model.runtime import Attach, ExecStart, ExecWait, Stop, WaitLog
from atoll.runtime.address import listen
from atoll.runtime.container import Container
from atoll.runtime.execs import Execs
from atoll.runtime.vm import BootVm

_LOG = logging.getLogger(__name__)

# An engine that forks a runtime starts the container at once; one that died in between comes back or never does.
_UNUSED_S = 60.0
_LAST_ANSWERS_S = 5.0
_CREDENTIALS = struct.Struct("3i")


async def serve(spec: BundleSpec, boot_vm: BootVm, listening: Callable[[], None]) -> None:
    """Run the container of `spec` to its end; `listening` is called when the socket is there.

    Raises `OSError` when the run directory or the log cannot be made.
    """
    with ExitStack() as run_dir, _listener(Path(spec.run_dir), run_dir) as listener:
        async with asyncio.TaskGroup() as tasks:
            # The inner group ends when the VM is gone and every client has its output; only then do connections.
            async with asyncio.TaskGroup() as jobs:
                server = _Server(Container(spec, boot_vm, jobs), tasks)
                accepting = tasks.create_task(server.accept(listener))
                listening()
                jobs.create_task(server.announce_end(run_dir))
                await server.container.run()
            accepting.cancel()
            await server.hang_up()


def _listener(run_dir: Path, cleanup: ExitStack) -> socket.socket:
    """Make the run directory, its removal a matter of `cleanup`, and listen in it."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    cleanup.callback(shutil.rmtree, run_dir, ignore_errors=True)
    return listen(run_dir)


class _Server:
    """The connections to one container."""

    def __init__(self, container: Container, tasks: asyncio.TaskGroup) -> None:
        self.container = container
        self._tasks = tasks
        self._execs = Execs(container)
        self._connections: set[Connection] = set()
        self._unused: asyncio.TimerHandle | None = None
        self._note_use()

    async def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects and may."""
        loop = asyncio.get_running_loop()
        while True:
            client, _ = await loop.sock_accept(listener)
            _, uid, _ = _CREDENTIALS.unpack(client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
            if uid in (0, os.geteuid()):
                self._tasks.create_task(self._serve(client))
            else:
                _LOG.warning("user %d was turned away", uid)
                client.close()

    async def announce_end(self, run_dir: ExitStack) -> None:
        """When the container has ended: make room for its next runtime, then tell everybody."""
        status = await self.container.wait()
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
        self._note_use()
        try:
            hello = Hello(protocol=PROTOCOL, agent_version=atoll.__version__, kernel=os.uname().release)
            await connection.serve(_Requests(self.container, self._execs, connection).answer, hello)
        finally:
            self._connections.discard(connection)
            self._note_use()

    def _note_use(self) -> None:
        """A runtime that nobody is connected to, and that nobody has started, does not stay."""
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        if not self._connections and self.container.is_unused:
            self._unused = asyncio.get_running_loop().call_later(_UNUSED_S, self.container.abandon)


class _Requests:
    """The requests of one connection, by name (`model/runtime.py`)."""

    def __init__(self, container: Container, execs: Execs, connection: Connection) -> None:
        self._container = container
        self._connection = connection
        self._methods: dict[str, Callable[[Raw], Awaitable[Struct | None]]] = {
            "start": lambda _: container.start(),
            "state": lambda _: self._state(),
            "wait": lambda _: container.wait(),
            "pause": lambda _: container.pause(),
            "resume": lambda _: container.resume(),
            "processes": lambda _: container.processes(),
            "statistics": lambda _: container.statistics(),
            "stop": self._stop,
            "signal": lambda raw: container.signal(decode(raw, Signal)),
            "resize": lambda raw: container.resize(decode(raw, Resize)),
            "attach": self._attach,
            "exec": lambda raw: execs.start(connection, decode(raw, ExecStart)),
            "exec_wait": lambda raw: execs.wait(decode(raw, ExecWait).id),
            "wait_log": lambda raw: container.wait_log(decode(raw, WaitLog).after_records),
        }

    async def answer(self, method: str, parameters: Raw) -> Struct | None:
        """Carry out one request; raises what its method raises."""
        if (carry_out := self._methods.get(method)) is None:
            raise InvalidRequest(f"a runtime has no request '{method}'")
        return await carry_out(parameters)

    async def _state(self) -> Struct:
        return self._container.state

    async def _stop(self, parameters: Raw) -> Struct:
        asked = decode(parameters, Stop)
        return await self._container.stop(asked.signal, asked.timeout_s)

    async def _attach(self, parameters: Raw) -> None:
        self._container.attach(self._connection, decode(parameters, Attach))
