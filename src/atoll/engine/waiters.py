"""Those who wait for a container to end."""

import asyncio
from typing import Literal

WaitCondition = Literal["not-running", "next-exit", "removed"]


class Waiters:
    """Futures of exit codes, by what they wait for."""

    def __init__(self) -> None:
        self._futures: dict[WaitCondition, list[asyncio.Future[int]]] = {
            "not-running": [],
            "next-exit": [],
            "removed": [],
        }

    def add(self, condition: WaitCondition) -> asyncio.Future[int]:
        """A future for what happens from now on; it may be cancelled."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._futures[condition].append(future)
        future.add_done_callback(lambda done: self._forget(condition, done))
        return future

    def resolve(self, code: int, *conditions: WaitCondition) -> None:
        """It has happened."""
        for condition in conditions:
            for future in list(self._futures[condition]):
                if not future.done():
                    future.set_result(code)

    def _forget(self, condition: WaitCondition, future: asyncio.Future[int]) -> None:
        if future in self._futures[condition]:
            self._futures[condition].remove(future)
