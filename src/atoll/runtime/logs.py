"""Reading a container's log, as `docker logs` does, while the runtime may be writing it.

    reader = LogReader(directory, tail=10, timestamps=True)
    for piece in reader.pieces(): ...                     # what is there now
    async for piece in reader.follow(runtime.wait_log): ...   # and what comes, to the container's end

Pieces are the bytes as they were printed, in the order in which they were. `log_records.py` has the format.
"""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from atoll.runtime.log_records import (
    STDERR,
    STDOUT,
    Record,
    backwards,
    forwards,
    opened,
    segment_path,
    segments,
    whole_bytes,
)

# A line this long is cut when the last lines are looked for, so that `--tail 1` of binary output is not all of it.
_MAX_LINE_BYTES = 1 << 20

__all__ = ["STDERR", "STDOUT", "LogPiece", "LogReader"]


class LogPiece(NamedTuple):
    """Bytes printed to a stream (`STDOUT`, `STDERR`) at a time."""

    time_ns: int
    stream: int
    data: bytes


class _Position(NamedTuple):
    """A place in a log, and how many bytes of the record that begins there are left out."""

    segment: int
    offset: int
    cut: int = 0


class LogReader:
    """Reads a log once, from where the options say, and goes on from there each time it is asked.

    `since_ns` and `until_ns` bound the time of records, in nanoseconds since the epoch; `tail` is a number of lines
    (an unfinished last line counts); `timestamps` puts RFC 3339 before each line. Use as a context, or `close`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stdout: bool = True,
        stderr: bool = True,
        since_ns: int | None = None,
        until_ns: int | None = None,
        tail: int | None = None,
        timestamps: bool = False,
    ) -> None:
        self.records = 0
        self._directory = directory
        self._streams = {stream for stream, wanted in ((STDOUT, stdout), (STDERR, stderr)) if wanted}
        self._since_ns = since_ns
        self._until_ns = until_ns
        self._is_past_until = False
        self._timestamps = timestamps
        self._inside_line: set[int] = set()
        self._fd = -1
        self._starts: dict[int, _Position] = {}
        self._segment, self._offset = 0, 0
        if tail is not None:
            self._starts = last_lines(directory, tail, self._streams)
            self._segment, self._offset, _ = min(self._starts.values(), default=_Position(0, 0))
        elif since_ns is not None:
            self._segment = _segment_of_time(directory, since_ns)

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1

    def pieces(self) -> Iterator[LogPiece]:
        """What is in the log and was not read yet."""
        for segment, record in self._new_records():
            if self._until_ns is not None and record.time_ns > self._until_ns:
                self._is_past_until = True
                return
            self.records = record.number
            data = self._wanted(segment, record)
            if data:
                yield LogPiece(record.time_ns, record.stream, self._stamped(record, data))

    async def follow(self, wait_for_more: Callable[[int], Awaitable[None]]) -> AsyncIterator[LogPiece]:
        """What is in the log and what is added, until `wait_for_more(records)` returns and nothing was added."""
        waited = False
        while True:
            before = self.records
            for piece in self.pieces():
                yield piece
            if self._is_past_until or (waited and self.records == before):
                return
            await wait_for_more(self.records)
            waited = True

    def _new_records(self) -> Iterator[tuple[int, Record]]:
        while self._fd != -1 or self._open_next():
            # Asked for before the segment is read: when there is a later one, the writer has left this one.
            is_complete = any(segment > self._segment for segment in segments(self._directory))
            for record in forwards(self._fd, self._offset):
                self._offset = record.end
                yield self._segment, record
            if not is_complete:
                return
            self.close()
            self._segment, self._offset = self._segment + 1, 0

    def _open_next(self) -> bool:
        """Open the segment to read, or the next one when it was rotated away."""
        for segment in segments(self._directory):
            if segment < self._segment:
                continue
            try:
                self._fd = os.open(segment_path(self._directory, segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            if segment != self._segment:
                self._segment, self._offset = segment, 0
            return True
        return False

    def _wanted(self, segment: int, record: Record) -> bytes:
        if record.stream not in self._streams or (self._since_ns is not None and record.time_ns < self._since_ns):
            return b""
        start = self._starts.get(record.stream)
        if start is None:
            return record.data
        here = (segment, record.start)
        if here < start[:2]:
            return b""
        return record.data[start.cut :] if here == start[:2] else record.data

    def _stamped(self, record: Record, data: bytes) -> bytes:
        if not self._timestamps:
            return data
        stamp = rfc3339(record.time_ns).encode() + b" "
        stamped = data[:-1].replace(b"\n", b"\n" + stamp) + data[-1:]
        if record.stream not in self._inside_line:
            stamped = stamp + stamped
        if data.endswith(b"\n"):
            self._inside_line.discard(record.stream)
        else:
            self._inside_line.add(record.stream)
        return stamped


def rfc3339(time_ns: int) -> str:
    """A time as Docker prints it: UTC, nine digits of fraction."""
    seconds, fraction = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:09d}Z"


def last_lines(directory: Path, count: int, streams: set[int]) -> dict[int, _Position]:
    """Where each stream begins, so that `count` lines of all of them together are left.

    Lines are counted in the order of their ends, and belong to what is left as a whole, wherever they began.
    """
    starts = dict.fromkeys(streams, _end(directory))
    # Streams whose first line may begin further back, and how many bytes lie behind without a line's end.
    unfinished: set[int] = set()
    unbroken: dict[int, int] = {}
    for segment, record in _backwards(directory):
        stream = record.stream
        if count == 0 and not unfinished:
            break
        if stream not in streams or (count == 0 and stream not in unfinished):
            continue
        for line_end in _line_ends(record.data, unbroken.get(stream, _MAX_LINE_BYTES) >= _MAX_LINE_BYTES):
            if count == 0:
                starts[stream] = _Position(segment, record.start, line_end)
                unfinished.discard(stream)
                break
            count -= 1
            unfinished.add(stream)
            unbroken[stream] = 0
        else:
            if stream in unfinished:
                starts[stream] = _Position(segment, record.start)
            unbroken[stream] = unbroken.get(stream, 0) + len(record.data)
    return starts


def _line_ends(data: bytes, ends_here: bool) -> Iterator[int]:
    """The offsets behind lines, last first; `ends_here`: the end of the data counts in any case."""
    if ends_here or data.endswith(b"\n"):
        yield len(data)
    newline = len(data) - 1
    while (newline := data.rfind(b"\n", 0, newline)) >= 0:
        yield newline + 1


def _backwards(directory: Path) -> Iterator[tuple[int, Record]]:
    for segment in reversed(segments(directory)):
        with opened(directory, segment) as fd:
            for record in backwards(fd) if fd is not None else ():
                yield segment, record


def _end(directory: Path) -> _Position:
    for segment in reversed(segments(directory)):
        with opened(directory, segment) as fd:
            if fd is not None:
                return _Position(segment, whole_bytes(fd))
    return _Position(0, 0)


def _segment_of_time(directory: Path, time_ns: int) -> int:
    """The last segment that begins before a time: the ones before it need not be read."""
    found = 0
    for segment in segments(directory):
        with opened(directory, segment) as fd:
            first = next(forwards(fd, 0), None) if fd is not None else None
        if first is not None and first.time_ns >= time_ns:
            break
        found = segment
    return found
