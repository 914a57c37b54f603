"""What a process reads: gathered from the clients that are attached, in the order in which it comes.

Clients may attach before there is a process; nothing is taken from them until there is. When the process
takes no more, or has none to take, they are told to stop.
"""

import asyncio

from atoll.channel import StreamReader, StreamStopped, StreamWriter
from atoll.errors import AtollError


class Stdin:
    """The standard input of one process; `tasks` owns what reads the clients."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._sources: dict[StreamReader, asyncio.Task[None]] = {}
        # One piece: what a client has sent waits in its own stream's window, not here.
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue(maxsize=1)
        self._pump: asyncio.Task[None] | None = None
        self._is_over = False

    def attach(self, source: StreamReader, ends_input: bool) -> None:
        """Take input from a client; with `ends_input` its end of file (or its loss) is the process's."""
        if self._is_over:
            source.stop()
            return
        self._sources[source] = self._tasks.create_task(self._take(source, ends_input))

    def start(self, process: StreamWriter) -> None:
        """Give the process what comes, until it takes no more or its input has ended."""
        if not self._is_over:  # a process may have ended before anybody hears that it had started
            self._pump = self._tasks.create_task(self._give(process))

    def finish(self) -> None:
        """The process takes no more: tell those who send."""
        if self._pump is not None:
            self._pump.cancel()
        self._refuse_more()

    def _refuse_more(self) -> None:
        self._is_over = True
        for source, task in self._sources.items():
            source.stop()
            task.cancel()

    async def _give(self, process: StreamWriter) -> None:
        try:
            while data := await self._pieces.get():
                await process.write(data)
            process.end()
        except (StreamStopped, AtollError):
            pass  # it has ended, or closed its standard input
        self._refuse_more()

    async def _take(self, source: StreamReader, ends_input: bool) -> None:
        try:
            async for data in source:
                await self._pieces.put(data)
        except AtollError:
            pass  # the engine is gone
        if ends_input:
            await self._pieces.put(b"")
        del self._sources[source]
