"""Launching ahead: a container that was just created is likely to be started at once (`docker run` does both).

So its VM is got ready while the client attaches. Nothing of the container runs before it is started, and a VM that is
not wanted within a moment is ended. Only one at a time is got ready like that: who creates many starts them later.
"""

import asyncio
import logging
from contextlib import suppress

from atoll.engine.ending import end_runtime
from atoll.engine.record import ContainerRecord
from atoll.engine.runtimes import Launcher, Runtime
from atoll.engine.services import Tasks
from atoll.errors import AtollError

log = logging.getLogger("atoll.engine")

KEPT_S = 2.0


class Ahead:
    """The one launch that is ahead of its start."""

    def __init__(self, launcher: Launcher, tasks: Tasks) -> None:
        self._launcher = launcher
        self._tasks = tasks
        self._launch: _Launch | None = None

    def begin(self, record: ContainerRecord) -> None:
        """Get a VM ready for a container that was just created, unless one is being got ready for another."""
        if self._launch is None:
            launch = self._launch = _Launch(record)
            self._tasks.spawn(self._keep(launch), f"launch of container {record.name} ahead of its start")

    async def take(self, container_id: str) -> Runtime | None:
        """The runtime that was launched for the container; None when it has to be launched now."""
        launch = self._launch
        if launch is None or launch.record.id != container_id:
            return None
        launch.is_wanted = True
        launch.is_decided.set()
        return await asyncio.shield(launch.runtime)

    async def forget(self, container_id: str) -> None:
        """End what was launched for a container that will not be started."""
        launch = self._launch
        if launch is not None and launch.record.id == container_id:
            launch.is_decided.set()
            await launch.has_ended.wait()

    async def _keep(self, launch: "_Launch") -> None:
        runtime: Runtime | None = None
        is_taken = False
        try:
            runtime = await self._launcher.launch(launch.record)
            with suppress(TimeoutError):
                async with asyncio.timeout(KEPT_S):
                    await launch.is_decided.wait()
            if launch.is_wanted:
                launch.runtime.set_result(runtime)
                is_taken = True
        except AtollError as error:
            log.info("container %s cannot be launched ahead of its start: %s", launch.record.name, error)
        finally:
            if not is_taken:
                if runtime is not None:
                    with suppress(AtollError):
                        await end_runtime(runtime)
                    self._launcher.clean_up(launch.record)
                self._launcher.started(launch.record, None)
            self._launch = None
            if not launch.runtime.done():
                launch.runtime.set_result(None)
            launch.has_ended.set()


class _Launch:
    def __init__(self, record: ContainerRecord) -> None:
        self.record = record
        self.runtime: asyncio.Future[Runtime | None] = asyncio.get_running_loop().create_future()
        self.is_wanted = False
        self.is_decided = asyncio.Event()
        self.has_ended = asyncio.Event()
