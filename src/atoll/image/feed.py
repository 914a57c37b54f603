"""Bytes that arrive on the event loop, read by work in a thread.

The loop must not hash, unpack or write gigabytes; a thread must not wait for the network. Between them stands a window
of a few MiB: a reader that is slow slows the sender down.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from atoll.image.tarstream import Source

Result = TypeVar("Result")

_WINDOW_BYTES = 4 << 20


class Stopped(Exception):
    """Raised by a feed's `read` when nobody waits for the work any longer; ends the thread."""


async def run_in_thread(work: Callable[[], Result], stop: Callable[[], None]) -> Result:
    """Run `work` in a thread of its own; when cancelled, call `stop` and wait until the thread has ended.

    So files and processes of the work are gone when the caller goes on. `stop` must make the work end soon.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="atoll-image") as executor:
        future = asyncio.get_running_loop().run_in_executor(executor, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            stop()
            while not future.done():
                try:
                    await asyncio.wait({future})
                except asyncio.CancelledError:
                    continue
            if not future.cancelled():
                future.exception()  # seen; the cancellation is what counts
            raise


async def consume_file(path: Path, work: Callable[[Source], Result]) -> Result:
    """Run `work` in a thread on the bytes of the file at `path`."""
    is_stopped = threading.Event()

    def run() -> Result:
        with path.open("rb", buffering=0) as file:
            return work(_StoppableSource(file, is_stopped))

    return await run_in_thread(run, is_stopped.set)


async def consume(chunks: AsyncIterator[bytes], work: Callable[[Source], Result]) -> Result:
    """Run `work` in a thread on what `chunks` brings; an error of `chunks` comes out of the work's `read`."""
    feed = _Feed()
    filling = asyncio.create_task(feed.fill(chunks))
    try:
        return await run_in_thread(lambda: work(feed), feed.stop)
    finally:
        filling.cancel()
        await asyncio.gather(filling, return_exceptions=True)


class _StoppableSource:
    def __init__(self, source: Source, is_stopped: threading.Event) -> None:
        self._source = source
        self._is_stopped = is_stopped

    def read(self, size: int, /) -> bytes:
        if self._is_stopped.is_set():
            raise Stopped
        return self._source.read(size)


class _Feed:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_room = asyncio.Event()
        self._is_full = False
        """Whether the sender waits for room. It is told once: every word to the loop costs the reader a turn."""
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._end: Exception | None = None
        self._is_ended = False

    async def fill(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                if not chunk:
                    continue
                with self._changed:
                    self._chunks.append(chunk)
                    self._held_bytes += len(chunk)
                    self._is_full = self._held_bytes >= _WINDOW_BYTES
                    self._changed.notify()
                if self._is_full:
                    await self._has_room.wait()
                    self._has_room.clear()
        except Exception as error:  # the task's outermost edge: it goes on to who reads
            self._finish(error)
        else:
            self._finish(None)
        finally:
            if isinstance(chunks, AsyncGenerator):
                await chunks.aclose()

    def read(self, size: int, /) -> bytes:
        with self._changed:
            while not self._chunks and not self._is_ended:
                self._changed.wait()
            if isinstance(self._end, Stopped) or not self._chunks:
                if self._end is not None:
                    raise self._end
                return b""
            taken = self._take(size)
            self._held_bytes -= len(taken)
            if self._is_full and self._held_bytes <= _WINDOW_BYTES // 2:
                self._is_full = False
                self._loop.call_soon_threadsafe(self._has_room.set)
        return taken

    def _take(self, size: int) -> bytes:
        """The next `size` bytes of what is here, fewer if there are not so many."""
        parts = [self._chunks.popleft()]
        length = len(parts[0])
        while length < size and self._chunks:
            parts.append(self._chunks.popleft())
            length += len(parts[-1])
        if length > size:
            last = parts.pop()
            keep = len(last) - (length - size)
            self._chunks.appendleft(last[keep:])
            parts.append(last[:keep])
        return b"".join(parts)

    def stop(self) -> None:
        """Let the next `read` raise `Stopped`."""
        self._finish(Stopped())

    def _finish(self, end: Exception | None) -> None:
        with self._changed:
            self._end = end
            self._is_ended = True
            self._changed.notify()
