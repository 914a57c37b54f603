"""A visit: the VM of a container that does not run, for as long as somebody works on its files.

The host never mounts what a container has written, so reading it takes a guest. All who come meanwhile share the visit;
it stays a moment after the last one has left, for `docker cp` comes twice, unless a start or a removal waits for it.
What was written is on the disk when it has ended. To everybody else the container is as it was.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress

from atoll.engine.ending import wait_until_gone
from atoll.engine.runtimes import Runtime
from atoll.engine.services import Tasks
from atoll.errors import AtollError

log = logging.getLogger("atoll.engine")

STAYS_S = 1.5


class Visits:
    """The visits of one container, one after the other: while there is one, `vm_is_gone` is not set."""

    def __init__(
        self,
        launch: Callable[[], Awaitable[Runtime]],
        clean_up: Callable[[], None],
        vm_is_gone: asyncio.Event,
        tasks: Tasks,
    ) -> None:
        self._launch = launch
        self._clean_up = clean_up
        self._vm_is_gone = vm_is_gone
        self._tasks = tasks
        self._visit: Visit | None = None

    def join(self) -> AbstractAsyncContextManager[Runtime] | None:
        """A place in the visit that there is, or in a new one; None while another VM has the disk."""
        if self._visit is not None and self._visit.is_open:
            return self._visit.join()
        if not self._vm_is_gone.is_set():
            return None
        visit = self._visit = Visit(self._launch)
        self._vm_is_gone.clear()
        self._tasks.spawn(self._keep(visit), "work on the files of a container")
        return visit.join()

    def hurry(self) -> None:
        """Do not stay after the last visitor."""
        if self._visit is not None:
            self._visit.hurry()

    def end(self) -> None:
        """End it under its visitors."""
        if self._visit is not None:
            self._visit.end()

    async def _keep(self, visit: "Visit") -> None:
        try:
            await visit.live()
        finally:
            self._clean_up()
            self._visit = None
            self._vm_is_gone.set()


class Visit:
    """One VM's time as a guest-house; `live` is its life, from `launch` to when its disk is free again."""

    def __init__(self, launch: Callable[[], Awaitable[Runtime]]) -> None:
        self._launch = launch
        self._held: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        self._runtime: Runtime | None = None
        self._visitors = 0
        self._changed = asyncio.Event()
        self._is_hurried = False
        self._is_over = False

    @property
    def is_open(self) -> bool:
        """Whether one more may join."""
        return not self._is_over

    @asynccontextmanager
    async def join(self) -> AsyncIterator[Runtime]:
        """The runtime, its container held, while the block lasts; raises why it could not be launched."""
        self._visitors += 1
        try:
            yield await asyncio.shield(self._held)
        finally:
            self._visitors -= 1
            self._changed.set()

    def hurry(self) -> None:
        """Do not stay after the last visitor."""
        self._is_hurried = True
        self._changed.set()

    def end(self) -> None:
        """End it under its visitors."""
        self.hurry()
        if self._runtime is not None:
            self._runtime.kill()

    async def live(self) -> None:
        """Launch the VM, keep it for the visitors, and take it down gently."""
        try:
            try:
                runtime = self._runtime = await self._launch()
                await runtime.hold()
            except AtollError as error:
                self._is_over = True
                self._held.set_exception(error)
                self._held.exception()  # nobody may be left to hear it
            else:
                self._held.set_result(runtime)
                await self._wait_for_visitors(runtime)
            if self._runtime is not None:
                with suppress(AtollError):
                    await self._runtime.release()
                await wait_until_gone(self._runtime)
                await self._runtime.close()
        except BaseException:
            # The engine ends, and nobody else knows of this VM. What was confirmed is on its disk.
            if self._runtime is not None:
                self._runtime.kill()
            raise
        finally:
            self._is_over = True
            if not self._held.done():
                self._held.cancel()

    async def _wait_for_visitors(self, runtime: Runtime) -> None:
        gone = asyncio.ensure_future(runtime.wait_gone())
        try:
            while not gone.done():
                self._changed.clear()
                changed = asyncio.ensure_future(self._changed.wait())
                stays_s = None if self._visitors else 0 if self._is_hurried else STAYS_S
                await asyncio.wait((gone, changed), timeout=stays_s, return_when=asyncio.FIRST_COMPLETED)
                has_changed = changed.done()
                changed.cancel()
                if not self._visitors and (self._is_hurried or not has_changed):
                    break
        finally:
            self._is_over = True
            gone.cancel()
        if gone.done():
            log.warning("a VM in which the files of a container were worked on has ended early")
