"""Processes that are started in a running container, beside its first one: `docker exec`."""

import asyncio

from atoll.channel import Connection
from atoll.errors import AtollError, Conflict, NotFound
from atoll.guest import exec_request
from atoll.model.agent import Exited, Started
from atoll.model.runtime import ExecExit, ExecStart
from atoll.runtime.container import INIT, Container
from atoll.runtime.process import ContainerProcess

# An engine asks for an exit code soon or never; a container that is polled by a health check has many.
_REMEMBERED = 256
_NOT_STARTED = 126


class Execs:
    """The execs of one container, also those that ended lately."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._processes: dict[str, ContainerProcess] = {}

    async def start(self, engine: Connection, asked: ExecStart) -> Started:
        """Start a process with its streams on the engine's connection.

        Raises `StartFailed` and its kinds, `Conflict` when the container does not run or the name is taken.
        """
        container, stdio = self._container, asked.process.stdio
        agent = container.agent()
        if asked.id == INIT or asked.id in self._processes:
            raise Conflict(f"exec {asked.id} has been started already")
        process = ContainerProcess(asked.id, container.jobs, None)
        request = exec_request(
            container.spec.config,
            asked,
            process.open_streams(
                agent.connection,
                stdin=stdio.stdin is not None,
                stdout=stdio.stdout is not None,
                stderr=stdio.stderr is not None,
            ),
        )
        process.attach(engine, stdio, ends_input=True)
        container.register(asked.id, process.finish)
        self._remember(process)
        try:
            started = await agent.exec(request)
        except AtollError:
            container.unregister(asked.id)
            process.abandon(Exited(id=asked.id, code=_NOT_STARTED))
            del self._processes[asked.id]
            raise
        process.started()
        return started

    async def wait(self, name: str) -> ExecExit:
        """Wait for the end of an exec; raises `NotFound` for one that was never started, or long ago."""
        process = self._processes.get(name)
        if process is None:
            raise NotFound(f"no exec {name} in container {self._container.spec.name}")
        exited = await asyncio.shield(process.exited)
        await process.wait_output()
        return ExecExit(code=exited.code)

    def _remember(self, process: ContainerProcess) -> None:
        self._processes[process.id] = process
        ended = [name for name, other in self._processes.items() if other.exited.done()]
        for name in ended[:-_REMEMBERED]:
            del self._processes[name]
