"""Signals as a queue with a descriptor, so that one poll waits for them, the keyboard and the container.

The third Ctrl-C or SIGTERM ends us even when the container does not listen (or the engine does not answer).
"""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from atoll.cli.errors import Failure

PATIENCE = 3

NOT_FORWARDED = frozenset(
    {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGCHLD,
        signal.SIGPIPE,
        signal.SIGURG,
        signal.SIGWINCH,
        # Faults of our own process.
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGABRT,
        signal.SIGSYS,
        # Stopping in the background for want of a terminal is ours to do.
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)
"""Signals that a container does not get when we get them."""


class SignalQueue:
    """Signals that arrived, oldest first; `descriptor` is readable when there is one."""

    def __init__(self) -> None:
        self.descriptor, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._interrupts = 0

    def take(self) -> bytes:
        """The numbers of the signals that arrived since."""
        try:
            return os.read(self.descriptor, 4096)
        except BlockingIOError:
            return b""

    @contextmanager
    def catching(self, numbers: Iterable[int]) -> Iterator[None]:
        """Catch these instead of what they do otherwise, until the end of the block."""
        before = {number: signal.signal(number, self._caught) for number in numbers}
        wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Close the descriptors."""
        os.close(self.descriptor)
        os.close(self._write)

    def _caught(self, number: int, frame: object) -> None:
        if number in (signal.SIGINT, signal.SIGTERM):
            self._interrupts += 1
            if self._interrupts == PATIENCE:
                raise Failure(f"got {PATIENCE} SIGTERM/SIGINTs, forcefully exiting")


def forwarded() -> set[int]:
    """The signals to pass on to a container."""
    return {int(number) for number in signal.valid_signals()} - NOT_FORWARDED
