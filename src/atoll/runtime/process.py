"""One process of the container, between the agent's streams and the clients': its first process, or an exec.

The agent's streams are opened when the process is asked for, and read from then on, whether or not a client
is attached. `exited` is the agent's word on how it ended; by then its output is at least received.
"""

import asyncio

from atoll.channel import Connection, StreamsReader, StreamWriter
from atoll.model.agent import Exited, Stdio
from atoll.runtime.fanout import Fanout
from atoll.runtime.log_records import STDERR, STDOUT
from atoll.runtime.log_writer import LogWriter
from atoll.runtime.stdin import Stdin


class ContainerProcess:
    """A process by its `id`; `tasks` owns what moves its bytes."""

    def __init__(self, name: str, tasks: asyncio.TaskGroup, log: LogWriter | None) -> None:
        self.id = name
        self.exited: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()
        self._tasks = tasks
        self._fanout = Fanout(tasks, log)
        self._stdin = Stdin(tasks)
        self._input: StreamWriter | None = None
        self._output: StreamsReader | None = None
        self._pump: asyncio.Task[None] | None = None

    def open_streams(self, agent: Connection, *, stdin: bool, stdout: bool, stderr: bool) -> Stdio:
        """Open streams on the agent's connection, and take the process's output from now on."""
        self._input = agent.open_writer() if stdin else None
        stdio = Stdio(
            stdin=self._input.stream if self._input else None,
            stdout=agent.next_stream() if stdout else None,
            stderr=agent.next_stream() if stderr else None,
        )
        streams = {number: name for number, name in ((stdio.stdout, STDOUT), (stdio.stderr, STDERR)) if number}
        self._output = agent.open_readers(*streams)
        self._pump = self._tasks.create_task(self._fanout.pump(self._output, streams))
        return stdio

    def attach(self, engine: Connection, stdio: Stdio, ends_input: bool) -> None:
        """Connect streams that the engine has named to the process, before or after it starts."""
        writers = [engine.open_writer(number) if number else None for number in (stdio.stdout, stdio.stderr)]
        self._fanout.attach(*writers)
        if stdio.stdin is not None:
            self._stdin.attach(engine.open_reader(stdio.stdin), ends_input)

    def started(self) -> None:
        """The process runs: it may be given input."""
        if self._input is None:
            self._stdin.finish()
        else:
            self._stdin.start(self._input)

    def finish(self, exited: Exited) -> None:
        """The process has ended (or will never run): what is left of its output goes out, no input is taken."""
        if not self.exited.done():
            self.exited.set_result(exited)
        self._stdin.finish()
        if self._input is not None:
            self._input.end()
        self._fanout.finish()
        if self._pump is None:
            self._fanout.end()

    def abandon(self, exited: Exited) -> None:
        """As `finish`, for a process that the agent did not start: nothing will come of its streams."""
        if self._output is not None:
            self._output.stop()
        self.finish(exited)

    async def wait_output(self) -> None:
        """Wait until all output has been logged and handed to the clients' queues."""
        if self._pump is not None:
            await asyncio.wait([self._pump])
