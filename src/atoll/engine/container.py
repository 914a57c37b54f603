"""One container: its state, its runtime, and those who wait for it.

A `Container` is the only one who changes its record. Each change is made in one go between two awaits, and saved
before anybody is told; what takes long is a state of its own (`starting`, `stopping`) that others see. The runtime
owns the VM: everything here is a message to it.
"""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import UTC, datetime

from msgspec.structs import replace

from atoll.engine.attachment import Attachment, Wish
from atoll.engine.ending import ended_record, start_exit_code, wait_for_end, wait_until_gone
from atoll.engine.names import check_name
from atoll.engine.record import ContainerRecord
from atoll.engine.restart import Backoff, restarts_after_exit
from atoll.engine.runtimes import Runtime
from atoll.engine.services import Services
from atoll.engine.signals import signal_number
from atoll.engine.sizing import vm_memory_mib
from atoll.engine.timings import Timings
from atoll.engine.visit import Visits
from atoll.engine.waiters import WaitCondition, Waiters
from atoll.errors import (
    AtollError,
    Conflict,
    InvalidRequest,
    NotModified,
    VmFailed,
)
from atoll.model.container import ContainerState, ExitStatus
from atoll.model.network import Attachment as NetworkPlace
from atoll.model.network import PortBinding
from atoll.model.runtime import RuntimeState

log = logging.getLogger("atoll.engine")


class Container:
    """The engine's side of one container."""

    def __init__(self, record: ContainerRecord, services: Services) -> None:
        self.record = record
        self._services = services
        self._runtime: Runtime | None = None
        self._attachments: list[Attachment] = []
        self._waiters = Waiters()
        self._settled = asyncio.Event()
        self._settled.set()
        self._vm_is_gone = asyncio.Event()
        self._vm_is_gone.set()
        self._visits = Visits(self._launch_for_visit, self._clean_up, self._vm_is_gone, services.tasks)
        self._backoff = Backoff()
        self._restart_timer: asyncio.TimerHandle | None = None
        self._policy_rests = False
        self._is_being_removed = False

    @property
    def id(self) -> str:
        """The full id: 64 hexadecimal digits."""
        return self.record.id

    @property
    def name(self) -> str:
        """The name, without a slash."""
        return self.record.name

    @property
    def is_being_removed(self) -> bool:
        """Whether it is on its way out."""
        return self._is_being_removed

    # --- starting ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start it; raises `NotModified`, `Conflict`, `StartFailed`, `VmFailed`."""
        await self._settle()
        if self._is_being_removed:
            raise Conflict("container is marked for removal and cannot be started")
        if self.record.state is ContainerState.PAUSED:
            raise Conflict("cannot start a paused container, try unpause instead")
        if self.record.has_vm:
            raise NotModified("container is already running")
        self._cancel_restart()
        await self._start(restart_count=0)
        self._publish("start")

    async def _settle(self) -> None:
        """Wait until it is neither being started nor on its way to other networks."""
        while not self._settled.is_set():
            await self._settled.wait()

    async def _start(self, restart_count: int) -> None:
        self._settled.clear()
        try:
            self._change(
                state=ContainerState.STARTING,
                restarting=False,
                restart_count=restart_count,
                stopped_by_user=False,
                error="",
                exit_code=0,
                out_of_memory=False,
            )
            try:
                await self._launch()
            except AtollError as error:
                await self._start_failed(error)
                raise
        finally:
            self._settled.set()

    async def _launch(self) -> None:
        launcher, timings = self._services.launcher, Timings()
        await self._wait_for_disk()
        memory_mib = self._memory_mib
        report = None
        try:
            async with self._services.admission.start(self.name, memory_mib):
                timings.done("queue")
                async with self._services.networking.joining(self.record) as joining:
                    runtime = await self._services.ahead.take(self.id) or await launcher.launch(self.record)
                    timings.done("launch")
                    started = await self._run(runtime, joining)
            report = started.report
        finally:
            launcher.started(self.record, report)
        self._change(state=ContainerState.RUNNING, pid=started.pid, started_at=started.started_at or _now())
        self._watch(runtime)
        if report is not None:
            self._services.timings.note(self.id, timings.with_report(report))

    async def _run(self, runtime: Runtime, joining: Awaitable[tuple[PortBinding, ...]]) -> RuntimeState:
        """Start the first process; the runtime is let go when that fails."""
        self._runtime = runtime
        is_asked = False
        try:
            if self._is_being_removed:
                raise Conflict(f"container {self.name} was removed while it started")
            for attachment in self._attachments:
                await attachment.open(runtime)
            self._attachments.clear()
            self._change(published=await joining)
            is_asked = True
            return await self._services.networking.start(self.record, runtime)
        except BaseException as error:
            self._runtime = None
            self._vm_is_gone.clear()
            # A runtime that was asked, and has said why it cannot, ends by itself.
            if not is_asked or not isinstance(error, AtollError):
                runtime.kill()
            self._services.tasks.spawn(self._let_go(runtime), f"end of the runtime of container {self.name}")
            raise

    async def _start_failed(self, error: AtollError) -> None:
        log.warning("container %s did not start: %s", self.name, error)
        for attachment in self._attachments:
            attachment.refuse()
        self._attachments.clear()
        state = ContainerState.CREATED if self.record.started_at is None else ContainerState.EXITED
        exit_code = start_exit_code(error)
        self._change(state=state, pid=0, published=(), error=str(error), exit_code=exit_code, finished_at=_now())
        if self.record.config.auto_remove and not self._is_being_removed:
            await self._remove()

    async def _wait_for_disk(self) -> None:
        """Wait until no VM has the container's disk; one that is there for visitors only ends with the last of them."""
        self._visits.hurry()
        while not self._vm_is_gone.is_set():
            await self._vm_is_gone.wait()

    @property
    def _memory_mib(self) -> int:
        return vm_memory_mib(self.record.config.memory_bytes, self._services.settings)

    def adopt(self, runtime: Runtime, state: ContainerState, pid: int, started_at: datetime | None) -> None:
        """Take over a running container that an earlier engine started."""
        self._runtime = runtime
        self._change(state=state, pid=pid, started_at=started_at or self.record.started_at or _now())
        self._watch(runtime)
        if self.record.is_rewired:
            self._services.tasks.spawn(self._finish_rewiring(runtime), f"networks of container {self.name}")

    async def _finish_rewiring(self, runtime: Runtime) -> None:
        """An earlier engine was killed while it changed the container's networks: they are those of the record."""
        await self._services.networking.repair(self.record, runtime)
        self._change(is_rewired=False)

    # --- ending -----------------------------------------------------------------------------------------------------

    def _watch(self, runtime: Runtime) -> None:
        self._vm_is_gone.clear()
        self._services.tasks.spawn(self._wait_for_exit(runtime), f"watch over container {self.name}")

    async def _wait_for_exit(self, runtime: Runtime) -> None:
        status = await wait_for_end(runtime, self._services.launcher, self.record)
        # Whoever hears of the end may want its ports.
        await self._services.networking.leave(self.record)
        self.exited(status)
        await self._let_go(runtime)

    async def _let_go(self, runtime: Runtime) -> None:
        """Wait for a runtime that has done its work to be gone; only then may there be another."""
        try:
            await wait_until_gone(runtime)
            await runtime.close()
            await self._services.networking.vm_gone(self.id)
            self._clean_up()
        finally:
            self._vm_is_gone.set()

    def _clean_up(self) -> None:
        self._services.launcher.clean_up(self.record)

    def exited(self, status: ExitStatus) -> None:
        """Record the end, tell everybody, and let the restart policy have its say."""
        self._runtime = None
        ended = ended_record(self.record, status)
        comes_back = not self._policy_rests and not self._is_being_removed and restarts_after_exit(ended)
        self._replace(replace(ended, restarting=comes_back))
        if status.out_of_memory:
            self._publish("oom")
        self._publish("die", exitCode=str(status.code))
        self._resolve("next-exit")
        if comes_back:
            self._restart_after(self._backoff.next_delay(self._ran_s()))
        elif not self._policy_rests:
            self._resolve("not-running")
            if ended.config.auto_remove and not self._is_being_removed:
                # Its VM may take its time to go: nothing of the container is left for anybody.
                removal = self._remove(waits_for_vm=False)
                self._services.tasks.spawn(removal, f"removal of container {self.name}")

    def ended_unwatched(self, status: ExitStatus) -> None:
        """Record an end that happened while there was no engine; the restart policy is asked later."""
        self._replace(ended_record(self.record, status))

    def never_started(self) -> None:
        """Record that a start was cut short and nothing of the container has run."""
        state = ContainerState.CREATED if self.record.started_at is None else ContainerState.EXITED
        self._change(state=state, pid=0, published=())

    async def stop(self, timeout_s: float | None = None, signal_name: str | None = None) -> None:
        """The stop signal, SIGKILL after `timeout_s` (negative: never); raises `NotModified` when it does not run."""
        number = signal_number(signal_name or self.record.config.stop_signal)
        await self._settle()
        if self._give_up_restart():
            return
        if not self.record.has_vm:
            raise NotModified("container is already stopped")
        self._change(stopped_by_user=True)
        await self._stop(number, self._stop_timeout(timeout_s))
        self._publish("stop")

    async def _stop(self, number: int, timeout_s: float | None) -> None:
        runtime = self._running()
        exited = self.wait("next-exit")
        self._change(state=ContainerState.STOPPING)
        self._publish("kill", signal=str(number))
        try:
            await runtime.stop(number, timeout_s)
        except VmFailed as error:
            log.warning("container %s could not be stopped: %s", self.name, error)
            runtime.kill()
        await exited

    async def restart(self, timeout_s: float | None = None, signal_name: str | None = None) -> None:
        """Stop it if it runs, and start it again."""
        number = signal_number(signal_name or self.record.config.stop_signal)
        await self._settle()
        self._cancel_restart()
        self._policy_rests = True
        try:
            if self.record.has_vm:
                await self._stop(number, self._stop_timeout(timeout_s))
                self._publish("stop")
            await self._start(restart_count=0)
        finally:
            self._policy_rests = False
            if not self.record.has_vm:
                self._resolve("not-running")
        self._publish("start")
        self._publish("restart")

    async def kill(self, signal_name: str) -> None:
        """Send a signal to the first process; SIGKILL returns when the container has ended."""
        number = signal_number(signal_name)
        await self._settle()
        if not self.record.has_vm and not self.record.restarting:
            raise Conflict(f"cannot kill container: {self.name}: container {self.id} is not running")
        if self._give_up_restart():
            return
        ends_it = number in (signal.SIGKILL, signal.SIGTERM, signal_number(self.record.config.stop_signal))
        if ends_it:
            self._change(stopped_by_user=True)
        if number == signal.SIGKILL:
            await self._stop(number, 0)
            return
        await self._running().signal("init", number)
        self._publish("kill", signal=str(number))

    async def pause(self) -> None:
        """Freeze the whole VM."""
        if self.record.state is ContainerState.PAUSED:
            raise Conflict(f"container {self.id} is already paused")
        runtime = self._running()
        await runtime.pause()
        self._change(state=ContainerState.PAUSED)
        self._publish("pause")

    async def unpause(self) -> None:
        """Let it run on."""
        if self.record.state is not ContainerState.PAUSED:
            raise Conflict(f"container {self.id} is not paused")
        await self._running().resume()
        self._change(state=ContainerState.RUNNING)
        self._publish("unpause")

    # --- restart policy ---------------------------------------------------------------------------------------------

    def _restart_after(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._restart_timer = loop.call_later(
            delay_s, lambda: self._services.tasks.spawn(self.restart_by_policy(), f"restart of container {self.name}")
        )

    async def restart_by_policy(self) -> None:
        """Start it again on behalf of its restart policy; one that fails to start is tried again as well."""
        self._restart_timer = None
        if self.record.has_vm or self._is_being_removed:
            return
        try:
            await self._start(restart_count=self.record.restart_count + 1)
        except AtollError:
            if self._is_being_removed or not restarts_after_exit(self.record):
                self._resolve("not-running")
                return
            self._change(restarting=True)
            self._restart_after(self._backoff.next_delay(0))
        else:
            self._publish("start")

    def _cancel_restart(self) -> None:
        if self._restart_timer is not None:
            self._restart_timer.cancel()
            self._restart_timer = None

    def _give_up_restart(self) -> bool:
        """Leave a container that waits for its policy stopped; returns whether it was one."""
        self._cancel_restart()
        if not self.record.restarting:
            return False
        self._change(restarting=False, stopped_by_user=True)
        self._resolve("not-running")
        self._publish("stop")
        return True

    # --- removing ---------------------------------------------------------------------------------------------------

    async def remove(self, force: bool, *, with_volumes: bool = False) -> None:
        """Remove it with all that it wrote; `force` ends it first, `with_volumes` takes its anonymous volumes along.

        Raises `Conflict` when it runs or is on its way.
        """
        if self._is_being_removed:
            raise Conflict(f"removal of container {self.name} is already in progress")
        if (self.record.has_vm or self.record.restarting) and not force:
            state = "paused" if self.record.state is ContainerState.PAUSED else "running"
            raise Conflict(
                f'cannot remove container "{self.name}": container is {state}: '
                "stop the container before removing or force remove"
            )
        await self._remove(with_volumes=with_volumes, kills_visit=force)

    async def _remove(
        self, *, waits_for_vm: bool = True, with_volumes: bool = False, kills_visit: bool = False
    ) -> None:
        self._is_being_removed = True
        try:
            self._cancel_restart()
            if self.record.state is ContainerState.STARTING:
                await self._abandon_start()
            if self.record.has_vm:
                await self._stop(signal.SIGKILL, 0)
        except BaseException:
            self._is_being_removed = False
            raise
        services = self._services
        if kills_visit:
            self._visits.end()
        await services.ahead.forget(self.id)
        services.table.delete(self.id)
        services.registry.remove(self)
        for attachment in self._attachments:
            attachment.refuse()
        if waits_for_vm:
            await self._wait_for_disk()
        await services.remove_files(self.id)
        if with_volumes or self.record.config.auto_remove:
            await services.volumes.forget(mount.name for mount in self.record.config.mounts if mount.is_anonymous)
        self._publish("destroy")
        self._resolve("next-exit", "not-running", "removed")

    async def _abandon_start(self) -> None:
        """Make a start that is under way fail, and wait until it has."""
        if self._runtime is not None:
            self._runtime.kill()
        await self._settled.wait()

    # --- those who wait and look ------------------------------------------------------------------------------------

    def wait(self, condition: WaitCondition) -> asyncio.Future[int]:
        """A future for the exit code at the end that `condition` names; what happens from now on is not missed."""
        starting = self.record.state is ContainerState.STARTING
        future = self._waiters.add(condition)
        if condition == "not-running" and not self.record.is_running and not starting:
            future.set_result(self.record.exit_code)
        return future

    def _resolve(self, *conditions: WaitCondition) -> None:
        self._waiters.resolve(self.record.exit_code, *conditions)

    @asynccontextmanager
    async def attach(self, *, stdin: bool, stdout: bool, stderr: bool) -> AsyncIterator[Attachment]:
        """A place for a client, for as long as the block lasts; raises `Conflict` when it is paused or restarting."""
        if self.record.state is ContainerState.PAUSED:
            raise Conflict(f"container {self.name} is paused, unpause the container before attach")
        if self.record.restarting:
            raise Conflict(f"container {self.name} is restarting, wait until the container is running")
        config = self.record.config
        # As in Docker, the end of a client that typed into a terminal is not the end of the terminal.
        close_stdin = config.stdin_once and not config.terminal
        attachment = Attachment(Wish(stdin and config.open_stdin, stdout, stderr, close_stdin))
        if self._runtime is None:
            self._attachments.append(attachment)
        else:
            await attachment.open(self._runtime)
        self._publish("attach")
        try:
            yield attachment
        finally:
            if attachment in self._attachments:
                self._attachments.remove(attachment)
            await attachment.close()

    @asynccontextmanager
    async def files(self) -> AsyncIterator[Runtime]:
        """A runtime that works on the container's files while the block lasts, whether it runs or not.

        Raises `Conflict` when it is paused or being removed, and what a start raises.
        """
        async with await self._files() as runtime:
            yield runtime

    async def _files(self) -> AbstractAsyncContextManager[Runtime]:
        while True:
            await self._settle()
            if self._is_being_removed:
                raise Conflict(f"container {self.name} is being removed")
            if self.record.has_vm:
                return nullcontext(self.runtime_for("working on its files"))
            if (visit := self._visits.join()) is not None:
                return visit
            await self._vm_is_gone.wait()

    async def _launch_for_visit(self) -> Runtime:
        services = self._services
        try:
            async with services.admission.start(self.name, self._memory_mib):
                return await services.ahead.take(self.id) or await services.launcher.launch(self.record)
        finally:
            services.launcher.started(self.record, None)

    def runtime_for(self, purpose: str) -> Runtime:
        """The runtime of a container that runs, for `purpose` (`exec`, `top`); raises `Conflict` otherwise."""
        if self.record.state is ContainerState.PAUSED:
            raise Conflict(f"container {self.name} is paused, unpause the container before {purpose}")
        return self._running()

    @property
    def runtime(self) -> Runtime | None:
        """The runtime, while there is one."""
        return self._runtime

    def rename(self, name: str) -> None:
        """Give it another name; raises `Conflict` when that is taken, `InvalidRequest` when it is not allowed."""
        registry = self._services.registry
        if not name:
            raise InvalidRequest("Neither old nor new names may be empty")
        if check_name(name) == self.name:
            raise InvalidRequest("Renaming a container with the same name as its current name")
        old, new = self.name, registry.reserve(name, self.id)
        registry.release(old)
        self._change(name=new)
        self._services.tasks.spawn(self._services.networking.rename(self.record), f"renaming of container {new}")
        self._publish("rename", oldName=f"/{old}")

    async def change_networks(self, plan: Callable[[ContainerRecord], tuple[NetworkPlace, ...]]) -> None:
        """Be on the networks that `plan` makes of the record, at once if it runs; raises what `plan` does, `Conflict`.

        Nothing is awaited between `plan` and when the record has what it says.
        """
        await self._settle()
        if self._is_being_removed:
            raise Conflict(f"container {self.name} is being removed")
        runtime = self.runtime_for("changing its networks") if self.record.has_vm else None
        before = self.record.attachments
        self._change(attachments=plan(self.record), is_rewired=runtime is not None)
        self._settled.clear()
        try:
            if runtime is None:
                await self._services.ahead.forget(self.id)
            else:
                self._change(published=await self._services.networking.rewire(self.record, runtime))
        except BaseException:
            self._change(attachments=before)
            raise
        finally:
            self._change(is_rewired=False)
            self._settled.set()

    # --- the record -------------------------------------------------------------------------------------------------

    def _running(self) -> Runtime:
        if self._runtime is None or self.record.state is ContainerState.STARTING:
            raise Conflict(f"container {self.id} is not running")
        return self._runtime

    def _change(self, **fields: object) -> None:
        self._replace(replace(self.record, **fields))

    def _replace(self, record: ContainerRecord) -> None:
        self._services.table.update(record)
        self.record = record

    def _publish(self, action: str, **attributes: str) -> None:
        config = self.record.config
        self._services.events.publish(
            "container", action, self.id, {**config.labels, "image": config.image, "name": self.name, **attributes}
        )

    def publish(self, action: str, **attributes: str) -> None:
        """An event about this container."""
        self._publish(action, **attributes)

    def _stop_timeout(self, asked_s: float | None) -> float | None:
        """Who asks, else the container, else the settings; negative is for ever."""
        configured = self.record.config.stop_timeout_s
        default = self._services.settings.stop_timeout_s if configured is None else configured
        timeout_s = default if asked_s is None else asked_s
        return None if timeout_s < 0 else timeout_s

    def _ran_s(self) -> float:
        record = self.record
        if record.started_at is None or record.finished_at is None:
            return 0.0
        return (record.finished_at - record.started_at).total_seconds()


def _now() -> datetime:
    return datetime.now(UTC)
