"""What a process prints, distributed: to the log, and to every client that is attached.

The slowest attached client slows the process down, as a full pipe would; with no client the log takes everything.
A client that goes away is dropped. Memory is bounded: each client has a queue of a quarter of a megabyte, and
when one is full nothing more is read from the agent. Only at the process's end (`finish`) is nobody waited
for: what is left, a window of the agent's stream at most, is logged at once and the clients get it at their pace.
"""

import asyncio
from collections import deque

from atoll.channel import StreamsReader, StreamStopped, StreamWriter
from atoll.errors import AtollError
from atoll.runtime.log_records import STDERR, STDOUT
from atoll.runtime.log_writer import LogWriter

_QUEUE_BYTES = 262_144
# What a piece costs beside its bytes: many small ones must count as well.
_PIECE_BYTES = 128


class Fanout:
    """The output of one process; `tasks` owns what feeds the clients."""

    def __init__(self, tasks: asyncio.TaskGroup, log: LogWriter | None) -> None:
        self._tasks = tasks
        self._log = log
        self._clients: list[_Client] = []
        self._hurry = asyncio.Event()
        self._ended: set[int] = set()

    def attach(self, stdout: StreamWriter | None, stderr: StreamWriter | None) -> None:
        """Give a client all output from now on, and the end of each stream."""
        for gone in [client for client in self._clients if not client.is_there]:
            gone.drop()
            self._clients.remove(gone)
        client = _Client({stream: writer for stream, writer in ((STDOUT, stdout), (STDERR, stderr)) if writer})
        for stream in self._ended:
            client.put(stream, b"")
        self._clients.append(client)
        self._tasks.create_task(client.feed())

    async def pump(self, source: StreamsReader, streams: dict[int, int]) -> None:
        """Distribute what `source` brings until all of it has ended, or the agent is lost.

        `streams` says which of its streams is `STDOUT`, which `STDERR`.
        """
        try:
            while piece := await source.read():
                self._distribute(streams[piece.stream], piece.data)
                for client in list(self._clients):
                    await client.room(self._hurry)
        except AtollError:
            pass  # the agent is lost: why is for the container's actor to say, what was printed is out
        finally:
            self.end()

    def finish(self) -> None:
        """The process has ended: take what is left without waiting for clients."""
        self._hurry.set()
        for client in self._clients:
            client.wake()

    def end(self) -> None:
        """There is no more output; may be called twice."""
        for stream in (STDOUT, STDERR):
            if stream not in self._ended:
                self._distribute(stream, b"")

    def _distribute(self, stream: int, data: bytes) -> None:
        if not data:
            self._ended.add(stream)
        elif self._log is not None:
            self._log.append(stream, data)
        for client in self._clients:
            client.put(stream, data)


class _Client:
    """One attached client: pieces in order, sent at its own pace."""

    def __init__(self, writers: dict[int, StreamWriter]) -> None:
        self._writers = writers
        self._queue: deque[tuple[int, bytes]] = deque()
        self._queued_bytes = 0
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()

    @property
    def is_there(self) -> bool:
        """Whether it still takes anything."""
        return any(writer.is_open for writer in self._writers.values())

    def put(self, stream: int, data: bytes) -> None:
        """Queue a piece, or with no data the end of a stream; never waits."""
        if stream in self._writers:
            self._queue.append((stream, data))
            self._queued_bytes += len(data) + _PIECE_BYTES
            self._changed.set()

    async def room(self, hurry: asyncio.Event) -> None:
        """Wait until the queue is short enough, the client is gone or everybody is in a hurry."""
        while self._queued_bytes > _QUEUE_BYTES and not hurry.is_set():
            self._taken.clear()
            await self._taken.wait()

    def drop(self) -> None:
        """Have `feed` end: nobody takes anything."""
        self._writers.clear()
        self._changed.set()

    def wake(self) -> None:
        """Have `room` look again."""
        self._taken.set()

    async def feed(self) -> None:
        """Send what is queued until every stream has ended or is not wanted any more."""
        while self._writers:
            if not self._queue:
                self._changed.clear()
                await self._changed.wait()
                continue
            stream, data = self._queue.popleft()
            writer = self._writers.get(stream)
            try:
                if writer is None:
                    pass
                elif data:
                    await writer.write(data)
                else:
                    writer.end()
                    del self._writers[stream]
            except (StreamStopped, AtollError):
                self._writers.pop(stream, None)
            self._queued_bytes -= len(data) + _PIECE_BYTES
            self._taken.set()
        self._queue.clear()
        self._queued_bytes = 0
        self._taken.set()
