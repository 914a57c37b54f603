"""A thread with an epoll loop of its own, in which bytes are moved.

asyncio would take several times as long for each event as the system calls that follow it, and a busy port would hold
up the resolver. Sockets are watched edge-triggered and for everything, once: an event is a hint that something may be
possible, and whoever gets one tries until the kernel says `EAGAIN`, or until it has had its turn (`again`).
"""

import contextlib
import logging
import os
import resource
import select
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from threading import Thread
from typing import TypeVar

_LOG = logging.getLogger(__name__)
_EVENTS = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_TICK_S = 1.0
T = TypeVar("T")


class Forwarder:
    """The loop. All of it but `run`, `start` and `stop` is for its own thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._watched: dict[int, Callable[[], None]] = {}
        self._again: deque[Callable[[], None]] = deque()
        self._asked: deque[Callable[[], None]] = deque()
        self._ticks: set[Callable[[float], None]] = set()
        self._is_ending = False
        self._thread = Thread(target=self._loop, name="ports", daemon=True)

    def start(self) -> None:
        """Begin; as many descriptors may be open as the system lets us have."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it watched stays open."""
        self._is_ending = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        self._epoll.close()
        os.close(self._wake)

    def run(self, action: Callable[[], T]) -> Future[T]:
        """Have the thread do `action`; for other threads."""
        future: Future[T] = Future()

        def act() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(action())
                except BaseException as error:
                    future.set_exception(error)

        self._asked.append(act)
        os.eventfd_write(self._wake, 1)
        return future

    def watch(self, descriptor: int, react: Callable[[], None]) -> None:
        """Call `react` when something may have become possible."""
        self._watched[descriptor] = react
        self._epoll.register(descriptor, _EVENTS)

    def forget(self, descriptor: int) -> None:
        """Stop to watch a descriptor, before it is closed."""
        if self._watched.pop(descriptor, None) is not None:
            with contextlib.suppress(FileNotFoundError):
                self._epoll.unregister(descriptor)

    def again(self, react: Callable[[], None]) -> None:
        """Call `react` once the others have had their turn."""
        self._again.append(react)

    def each_second(self, tick: Callable[[float], None]) -> None:
        """Call `tick` about every second with the monotonic time."""
        self._ticks.add(tick)

    def no_more_seconds(self, tick: Callable[[float], None]) -> None:
        """Take `each_second` back."""
        self._ticks.discard(tick)

    def _loop(self) -> None:
        next_tick = time.monotonic() + _TICK_S
        while not self._is_ending:
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + _TICK_S
                for tick in tuple(self._ticks):
                    self._guarded(partial(tick, now))
            wait_s = 0.0 if self._again else max(0.0, next_tick - now) if self._ticks else -1
            for descriptor, _ in self._epoll.poll(wait_s):
                react = self._watched.get(descriptor)
                if react is not None:
                    self._guarded(react)
                elif descriptor == self._wake:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._wake)
            for _ in range(len(self._asked)):
                self._guarded(self._asked.popleft())
            for _ in range(len(self._again)):
                self._guarded(self._again.popleft())

    def _guarded(self, react: Callable[[], None]) -> None:
        try:
            react()
        except Exception:
            _LOG.exception("a published port failed in a way that is not expected")
