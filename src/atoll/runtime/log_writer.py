"""Writing a container's log: appended record by record, rotated by size, bounded by count.

A write that fails (a full disk) loses its output, never the container: the record is taken back, the loss is
counted and reported once to the runtime's own log.
"""

import asyncio
import logging
import os
import time
from pathlib import Path

from atoll.runtime.log_records import (
    MAX_RECORD_BYTES,
    OVERHEAD_BYTES,
    backwards,
    opened,
    pack,
    segment_path,
    segments,
    whole_bytes,
)

_LOG = logging.getLogger(__name__)


class LogWriter:
    """The one writer of a log; continues what is there, a torn last record cut off.

    A segment is closed before it would exceed `max_bytes` (0: never); at most `max_files` segments are kept
    (0: all of them). A record that is larger than `max_bytes` has a segment of its own.
    """

    def __init__(self, directory: Path, max_bytes: int, max_files: int) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.records = 0
        self.lost_bytes = 0
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_files = max_files
        self._waiters: set[asyncio.Future[None]] = set()
        existing = segments(directory)
        self._segment = existing[-1] if existing else 1
        self._fd = -1
        self._open_segment()
        self._size = whole_bytes(self._fd)
        os.ftruncate(self._fd, self._size)
        self.records = _last_number(directory, existing)

    def append(self, stream: int, data: bytes) -> None:
        """Log `data` of a stream (`STDOUT`, `STDERR`) with the present time; once closed, it is lost."""
        if self._fd == -1:
            self.lost_bytes += len(data)
            return
        for start in range(0, len(data), MAX_RECORD_BYTES):
            self._append(stream, data[start : start + MAX_RECORD_BYTES] if len(data) > MAX_RECORD_BYTES else data)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait_beyond(self, after_records: int) -> None:
        """Wait until the last record's number is above `after_records`, or the log is closed."""
        while self._fd != -1 and self.records <= after_records:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)

    def close(self) -> None:
        """No record follows; may be called twice."""
        if self._fd != -1:
            os.close(self._fd)
            self._fd = -1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _append(self, stream: int, data: bytes) -> None:
        whole = len(data) + OVERHEAD_BYTES
        try:
            if self._max_bytes > 0 and self._size and self._size + whole > self._max_bytes:
                self._rotate()
            written = os.writev(self._fd, pack(time.time_ns(), self.records + 1, stream, data))
        except OSError as error:
            self._lose(data, error.strerror or str(error))
            return
        if written < whole:
            self._lose(data, "no space left on device")
            return
        self._size += whole
        self.records += 1

    def _lose(self, data: bytes, reason: str) -> None:
        if not self.lost_bytes:
            _LOG.error("output is lost, the log in %s cannot be written: %s", self._directory, reason)
        self.lost_bytes += len(data)
        os.ftruncate(self._fd, self._size)

    def _rotate(self) -> None:
        self._segment += 1
        self._open_segment()
        self._size = 0
        kept = segments(self._directory)
        for segment in kept[: -self._max_files] if self._max_files > 0 else ():
            segment_path(self._directory, segment).unlink(missing_ok=True)

    def _open_segment(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        fd = os.open(segment_path(self._directory, self._segment), flags, 0o600)
        if self._fd != -1:
            os.close(self._fd)
        self._fd = fd


def _last_number(directory: Path, existing: list[int]) -> int:
    for segment in reversed(existing):
        with opened(directory, segment) as fd:
            for record in backwards(fd) if fd is not None else ():
                return record.number
    return 0
