"""What happens in the engine, told to whoever listens: Docker's events.

The last `REMEMBERED` events are kept for `since`. A listener that does not keep up loses the oldest events of its
own queue: the engine waits for nobody.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from msgspec import Struct

REMEMBERED = 1024
QUEUE = 4096


class Event(Struct, frozen=True, kw_only=True):
    """`type` is `container`, `image`, `network`, `volume` or `daemon`; `attributes` are Docker's `Actor.Attributes`."""

    type: str
    action: str
    id: str
    attributes: dict[str, str]
    time_ns: int


class EventBus:
    """Publishes without waiting; every listener has a queue of its own."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._listeners: set[_Listener] = set()

    def publish(self, type: str, action: str, id: str, attributes: dict[str, str]) -> None:
        """Tell everybody now."""
        event = Event(type=type, action=action, id=id, attributes=attributes, time_ns=time.time_ns())
        self._past.append(event)
        for listener in self._listeners:
            listener.hear(event)

    def past(self, since_ns: int, until_ns: int) -> Iterator[Event]:
        """The remembered events of that time."""
        return (event for event in list(self._past) if since_ns <= event.time_ns <= until_ns)

    @contextmanager
    def listen(self) -> Iterator[AsyncIterator[Event]]:
        """Events from this moment on, for as long as the block lasts."""
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=QUEUE)
        self._heard = asyncio.Event()

    def hear(self, event: Event) -> None:
        self._events.append(event)
        self._heard.set()

    def __aiter__(self) -> "_Listener":
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            self._heard.clear()
            await self._heard.wait()
        return self._events.popleft()
