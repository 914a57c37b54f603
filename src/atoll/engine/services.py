"""What every container of an engine shares."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from atoll.engine.admission import Admission
from atoll.engine.events import EventBus
from atoll.engine.record import RecordTable
from atoll.engine.runtimes import Launcher
from atoll.engine.timings import LastTimings
from atoll.engine.topology import Topology
from atoll.engine.volumes import Volumes
from atoll.paths import Paths
from atoll.settings import Settings

if TYPE_CHECKING:
    from atoll.engine.ahead import Ahead
    from atoll.engine.container import Container
    from atoll.engine.networking import Networking
    from atoll.engine.registry import Registry

log = logging.getLogger("atoll.engine")

T = TypeVar("T")


@dataclass(frozen=True)
class Tasks:
    """Work that outlives the request that began it, owned by the engine's task group."""

    group: asyncio.TaskGroup
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    def cancel_all(self) -> None:
        """The engine ends; what runs in containers does not."""
        for task in self._running:
            task.cancel()

    def spawn(self, work: Coroutine[object, object, None], what: str) -> asyncio.Task[None]:
        """Run `work` in the background; a failure is logged as `what` and stays there."""
        task = self._own(_guarded(work, what), what)
        task.add_done_callback(lambda _: work.close())
        return task

    async def finish(self, work: Coroutine[object, object, T], what: str) -> T:
        """Run `work` to its end even when the caller is cancelled half way, as a client that hangs up does."""
        return await self.begin(work, what)

    def begin(self, work: Coroutine[object, object, T], what: str) -> asyncio.Future[T]:
        """Run `work` in the background; the future has its result, and is cancelled alone."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        task = self._own(_answering(work, answer), what)
        task.add_done_callback(lambda _: work.close())
        return answer

    def _own(self, work: Coroutine[object, object, None], what: str) -> asyncio.Task[None]:
        task = self.group.create_task(work, name=what)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        # A task that is cancelled before its first step never begins its coroutine.
        task.add_done_callback(lambda _: work.close())
        return task


async def _guarded(work: Coroutine[object, object, None], what: str) -> None:
    try:
        await work
    except Exception:  # the task's outermost edge
        log.exception("%s failed", what)


async def _answering(work: Coroutine[object, object, T], answer: asyncio.Future[T]) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        answer.cancel()
        raise
    except Exception as error:  # the task's outermost edge: the caller gets it
        if answer.cancelled():
            log.warning("nobody waited for: %s", error)
        else:
            answer.set_exception(error)
    else:
        if not answer.cancelled():
            answer.set_result(result)


@dataclass(frozen=True)
class Services:
    """The engine as one of its containers sees it."""

    paths: Paths
    settings: Settings
    table: RecordTable
    events: EventBus
    launcher: Launcher
    tasks: Tasks
    registry: "Registry[Container]"
    admission: Admission
    ahead: "Ahead"
    timings: LastTimings
    volumes: Volumes
    topology: Topology
    networking: "Networking"
    remove_files: Callable[[str], Coroutine[object, object, None]]
