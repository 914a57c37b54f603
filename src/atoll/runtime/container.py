"""The actor: one task owns the state of one container, everything else sends it messages.

A message is one of its methods, put into its inbox (`inbox.py`) as news (the VM is up, the process has ended) or as a
request, with a future for the reply. Those methods never wait: what takes time (the VM, the agent) runs in jobs,
tasks that send their outcome as the next message. So no request waits behind another.

    created --start--> starting --started--> running <--pause, resume--> paused
       any of them --stop--> stopping;    the process's end --> exited;    the VM's or the agent's failure --> dead
    created --hold--> created, its files at hand and nothing running --release--> exited, of which no record is kept

The exit is recorded (`exit.json`) and told as soon as all output is logged; the VM is taken down after that.
"""

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from atoll.channel import Connection
from atoll.errors import AtollError, CommandNotExecutable, CommandNotFound, Conflict, NotModified, VmFailed
from atoll.guest import Agent
from atoll.model.agent import Exited, ProcessList, Resize, Signal, Statistics
from atoll.model.container import BundleSpec, ContainerState, ExitStatus
from atoll.model.runtime import Attach, RuntimeState, StartReport
from atoll.runtime.exit_record import write_exit
from atoll.runtime.inbox import Inbox, refuse, reply
from atoll.runtime.lifecycle import Lifecycle
from atoll.runtime.log_writer import LogWriter
from atoll.runtime.process import ContainerProcess
from atoll.runtime.starting import Starting
from atoll.runtime.vm import BootVm, Vm

_LOG = logging.getLogger(__name__)

INIT = "init"
_KILLED = 128 + signal.SIGKILL
# What Docker shows for a container whose process could not be started, unless it is 126 or 127.
_NOT_STARTED = 128
_EXIT_CODES: dict[type[AtollError], int] = {CommandNotFound: 127, CommandNotExecutable: 126}
_HOST_FAILED = 125
_AFTER_SIGKILL_S = 10.0


class Container:
    """One container, from the boot of its VM to the end of its process; `jobs` owns all of its tasks."""

    def __init__(self, spec: BundleSpec, boot_vm: BootVm, jobs: asyncio.TaskGroup, taps: tuple[str, ...] = ()) -> None:
        self.spec = spec
        self.jobs = jobs
        self._taps = taps
        self._boot_vm = boot_vm
        self._life = Lifecycle()
        self._inbox = Inbox()
        self._log = LogWriter(Path(spec.bundle) / "log", spec.log_max_bytes, spec.log_max_files)
        self._init = ContainerProcess(INIT, jobs, self._log)
        self._others: dict[str, Callable[[Exited], None]] = {}
        self._vm: Vm | None = None
        self._boot_error: AtollError | None = None
        self._start_reply: asyncio.Future[RuntimeState] | None = None
        self._started_at: datetime | None = None
        self._report: StartReport | None = None
        self._has_process = asyncio.Event()
        self._is_held = False
        self._starting = Starting(spec)
        self._stopped_by_user = False
        self._stops: list[asyncio.Task[None]] = []
        self._ended: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._release_vm = asyncio.Event()

    async def run(self) -> None:
        """Live: boot the VM, carry out what is asked, end, take the VM down."""
        actor = self.jobs.create_task(self._inbox.obey())
        vm = self.jobs.create_task(self._keep_vm())
        await self.wait()
        if self._vm is None:
            vm.cancel()
        self._release_vm.set()
        await asyncio.wait([vm])
        actor.cancel()
        self._inbox.close(self._has_ended())

    # --- what may be asked, by any task

    @property
    def state(self) -> RuntimeState:
        """The state now."""
        return RuntimeState(
            state=self._life.state,
            pid=self._vm.machine.pid if self._vm else 0,
            started_at=self._started_at,
            report=self._report,
            is_held=self._is_held,
            taps=self._taps,
        )

    @property
    def is_unused(self) -> bool:
        """Whether nobody has asked for a start yet."""
        return self._life.state is ContainerState.CREATED

    async def start(self, *, waits: bool = False) -> RuntimeState:
        """Start the first process once the VM is up, and with `waits` not before `proceed`.

        Raises `StartFailed`, `VmFailed`, `NotModified` or `Conflict`.
        """
        return await self._inbox.ask(self._start, waits)

    async def proceed(self) -> None:
        """What a start that `waits` has waited for is there."""
        await self._inbox.ask(self._proceed)

    async def hold(self) -> RuntimeState:
        """Put all together and run nothing, for work on its files; raises as `start`."""
        return await self._inbox.ask(self._hold)

    async def release(self) -> None:
        """End a container that was held: its disk is unmounted before its VM goes."""
        await self._inbox.ask(self._release)

    async def stop(self, number: int, timeout_s: float | None) -> ExitStatus:
        """Signal the first process, kill it after `timeout_s` seconds (None: never), wait for the end."""
        await self._inbox.ask(self._stop, number, timeout_s)
        return await self.wait()

    async def pause(self) -> None:
        """Stop the VM's processors; raises `Conflict` unless the container runs."""
        await self._inbox.ask(self._pause)

    async def resume(self) -> None:
        """Let them go on; raises `Conflict` unless the container is paused."""
        await self._inbox.ask(self._resume)

    async def wait(self) -> ExitStatus:
        """Wait for the end; all output is logged by then."""
        return await asyncio.shield(self._ended)

    async def wait_log(self, after_records: int) -> None:
        """Wait until a record with a higher number is logged, or the container has ended."""
        await self._log.wait_beyond(after_records)

    async def signal(self, asked: Signal) -> None:
        """Signal a process; SIGKILL to the first one is certain to end the container."""
        if asked.id == INIT:
            if asked.signal == signal.SIGKILL:
                await self._inbox.ask(self._stop, asked.signal, None)
                return
            if self._life.state is ContainerState.PAUSED and asked.signal == self._stop_signal:
                await self.resume()
            self._inbox.tell(self._note_signal, asked.signal)
        await self.agent().signal(asked)

    async def resize(self, asked: Resize) -> None:
        """Set the size of a process's terminal."""
        await self.agent().resize(asked)

    async def processes(self) -> ProcessList:
        """The container's processes."""
        return await self.agent().processes()

    async def statistics(self) -> Statistics:
        """The container's use of resources."""
        return await self.agent().statistics()

    def attach(self, engine: Connection, asked: Attach) -> None:
        """Connect the engine's streams to the first process; raises `Conflict` after the end."""
        if self._life.has_ended:
            raise Conflict(f"container {self.spec.name} has ended: start it before you attach to it")
        self._init.attach(engine, asked.stdio, asked.close_stdin)

    def agent(self) -> Agent:
        """The agent of a container whose processes run; raises `Conflict` when it is paused or has none."""
        state = self._life.state
        if state is ContainerState.PAUSED:
            raise Conflict(f"container {self.spec.name} is paused: resume it first")
        if self._vm is None or state not in (ContainerState.RUNNING, ContainerState.STOPPING):
            raise Conflict(f"container {self.spec.name} is not running")
        return self._vm.agent

    def agent_for_files(self) -> Agent:
        """The agent of a container that is held, or whose processes run; raises `Conflict` otherwise."""
        if self._is_held and self._vm is not None and self._has_process.is_set():
            return self._vm.agent
        return self.agent()

    def register(self, process: str, on_exited: Callable[[Exited], None]) -> None:
        """Have `on_exited` called once, when the process named `process` or the container has ended."""
        self._others[process] = on_exited

    def unregister(self, process: str) -> None:
        """Forget a process that did not start."""
        self._others.pop(process, None)

    def abandon(self) -> None:
        """End, if nobody has asked for a start by now."""
        self._inbox.tell(self._give_up)

    def _has_ended(self) -> Conflict:
        return Conflict(f"container {self.spec.name} has ended")

    # --- messages: start

    def _start(self, asked: "asyncio.Future[RuntimeState]", waits: bool) -> None:
        self._check_startable()
        self._life.move(ContainerState.STARTING)
        self._starting = Starting(self.spec, waits=waits)
        self._launch(asked)

    def _proceed(self, asked: "asyncio.Future[None]") -> None:
        self.jobs.create_task(self._starting.proceed())
        reply(asked, None)

    def _hold(self, asked: "asyncio.Future[RuntimeState]") -> None:
        self._check_startable()
        self._is_held = True
        self._starting = Starting(self.spec, hold=True)
        self._launch(asked)

    def _check_startable(self) -> None:
        if self._life.has_ended or self._init.exited.done():
            raise self._has_ended()
        if self._is_held:
            raise Conflict(f"the files of container {self.spec.name} are being worked on")
        if self._life.state is not ContainerState.CREATED:
            raise NotModified(f"container {self.spec.name} is {self._life.state.value} already")

    def _launch(self, asked: "asyncio.Future[RuntimeState]") -> None:
        self._start_reply = asked
        if self._boot_error is not None:
            self._fail(self._boot_error)
        elif self._vm is not None:
            self.jobs.create_task(self._start_process(self._vm))

    def _vm_is_up(self, vm: Vm) -> None:
        self._vm = vm
        if self._life.state is ContainerState.STARTING or self._is_held:
            self.jobs.create_task(self._start_process(vm))

    def _process_started(self) -> None:
        if self._has_process.is_set() or self._init.exited.done():
            return
        self._has_process.set()
        if not self._is_held:
            self._started_at = datetime.now(UTC)
            self._init.started()
        if self._life.state is ContainerState.STARTING:
            self._life.move(ContainerState.RUNNING)
        if self._start_reply is not None:
            reply(self._start_reply, self.state)

    def _process_refused(self, error: AtollError) -> None:
        if isinstance(error, VmFailed):
            self._fail(error)
        if self._life.has_ended or self._init.exited.done():
            return
        code = _EXIT_CODES.get(type(error), _NOT_STARTED)
        self._init.abandon(Exited(id=INIT, code=code))
        self._end(ContainerState.EXITED, code, reason=str(error))
        if self._start_reply is not None:
            refuse(self._start_reply, error)

    # --- messages: pause and resume

    def _pause(self, asked: "asyncio.Future[None]") -> None:
        vm = self._vm
        if vm is None or self._life.state is not ContainerState.RUNNING:
            raise Conflict(f"container {self.spec.name} is {self._life.state.value}: only a running one can be paused")
        self.jobs.create_task(self._change_vm(vm.machine.pause(), self._paused, asked))

    def _paused(self, asked: "asyncio.Future[None]") -> None:
        if self._life.state is ContainerState.RUNNING:
            self._life.move(ContainerState.PAUSED)
        self._confirm(asked, ContainerState.PAUSED)

    def _resume(self, asked: "asyncio.Future[None]") -> None:
        vm = self._vm
        if vm is None or self._life.state is not ContainerState.PAUSED:
            raise Conflict(f"container {self.spec.name} is not paused")
        self.jobs.create_task(self._change_vm(vm.machine.resume(), self._resumed, asked))

    def _resumed(self, asked: "asyncio.Future[None]") -> None:
        if self._life.state is ContainerState.PAUSED:
            self._life.move(ContainerState.RUNNING)
        self._confirm(asked, ContainerState.RUNNING)

    def _confirm(self, asked: "asyncio.Future[None]", wanted: ContainerState) -> None:
        if self._life.state is wanted:
            reply(asked, None)
        else:
            refuse(asked, Conflict(f"container {self.spec.name} is {self._life.state.value} by now"))

    # --- messages: the end

    def _stop(self, asked: "asyncio.Future[None]", number: int, timeout_s: float | None) -> None:
        self._stopped_by_user = True
        state = self._life.state
        has_begun = self._vm is not None and not self._starting.waits
        if state is ContainerState.CREATED or not (has_begun or self._life.has_ended):
            self._fail(Conflict(f"container {self.spec.name} was stopped before it had started"), by_user=True)
        elif not self._life.has_ended:
            if state is not ContainerState.STOPPING:
                self._life.move(ContainerState.STOPPING)
            self._stops.append(self.jobs.create_task(self._stop_process(number, timeout_s)))
        reply(asked, None)

    def _release(self, asked: "asyncio.Future[None]") -> None:
        if not self._is_held:
            raise Conflict(f"container {self.spec.name} is not held")
        if not self._init.exited.done():
            self._init.finish(Exited(id=INIT, code=0))
            self._end(ContainerState.EXITED, 0)
        reply(asked, None)

    def _note_signal(self, number: int) -> None:
        """The process may end of what a user sent: then no restart policy starts it again."""
        if number == self._stop_signal:
            self._stopped_by_user = True

    def _process_exited(self, exited: Exited) -> None:
        if exited.id != INIT:
            if on_exited := self._others.pop(exited.id, None):
                on_exited(exited)
        elif self._is_held:
            self._fail(VmFailed(f"what held container {self.spec.name} together was killed"))
        elif not self._init.exited.done():
            self._process_started()  # the answer to `start` may be behind this event
            self._init.finish(exited)
            self.jobs.create_task(self._conclude(exited))

    def _output_is_complete(self, exited: Exited) -> None:
        self._end(ContainerState.EXITED, exited.code, out_of_memory=exited.out_of_memory)

    def _vm_failed(self, error: AtollError) -> None:
        if self.is_unused and not self._is_held:
            self._boot_error = error  # for whoever starts it
        else:
            self._fail(error)

    def _give_up(self) -> None:
        if self._is_held and not self._init.exited.done():
            self._init.finish(Exited(id=INIT, code=0))
            self._end(ContainerState.EXITED, 0)
        elif self.is_unused:
            self._fail(self._boot_error or VmFailed("nobody started the container"))

    def _fail(self, error: AtollError, *, by_user: bool = False) -> None:
        """Begin the end of a container whose process did not say how it ended."""
        if self._init.exited.done():
            return
        code = _KILLED if self._started_at is not None or by_user else _HOST_FAILED
        self._init.finish(Exited(id=INIT, code=code))
        if self._vm is not None:
            self._vm.agent.connection.close_after_reading("its container has failed")  # its output is to be logged
        self.jobs.create_task(self._conclude_failure(error, code, by_user))

    def _has_failed(self, error: AtollError, code: int, by_user: bool) -> None:
        self._end(ContainerState.EXITED if by_user else ContainerState.DEAD, code, reason=str(error))
        if self._start_reply is not None:
            refuse(self._start_reply, error)

    def _end(self, state: ContainerState, code: int, *, reason: str = "", out_of_memory: bool = False) -> None:
        self._life.move(state)
        status = ExitStatus(
            code=code,
            finished_at=datetime.now(UTC),
            started_at=self._started_at,
            out_of_memory=out_of_memory,
            reason=reason,
            stopped_by_user=self._stopped_by_user,
        )
        if not self._is_held:
            self._record(status)
        _LOG.info("ended: %s", status)
        self._log.close()
        for stopping in self._stops:
            stopping.cancel()
        for name, on_exited in self._others.items():
            on_exited(Exited(id=name, code=_KILLED))
        self._others.clear()
        self._ended.set_result(status)

    def _record(self, status: ExitStatus) -> None:
        try:
            # A container that is removed when it ends has no use for a record after a loss of power.
            write_exit(Path(self.spec.bundle), status, durable=not self.spec.config.auto_remove)
        except OSError as error:
            _LOG.error("the exit of %s cannot be recorded: %s (%s)", self.spec.id, error, status)

    # --- jobs

    async def _keep_vm(self) -> None:
        """The VM's life: boot it, watch it, take it down when the container has ended."""
        try:
            async with self._boot_vm(self.spec, lambda exited: self._inbox.tell(self._process_exited, exited)) as vm:
                self._inbox.tell(self._vm_is_up, vm)
                watching = self.jobs.create_task(self._watch_vm(vm))
                try:
                    await self._release_vm.wait()
                    # Only what somebody will see again needs to be unmounted: disks, directories of the host.
                    is_seen_again = self.spec.writable_disk is not None and (
                        self._is_held or not self.spec.config.auto_remove
                    )
                    is_kept = is_seen_again or self.spec.volumes is not None or bool(self.spec.exports)
                    await vm.take_down(gently=is_kept and self._life.state is ContainerState.EXITED)
                finally:
                    watching.cancel()
        except AtollError as error:
            self._inbox.tell(self._vm_failed, error)
        except Exception as error:
            _LOG.exception("the VM of %s failed", self.spec.id)
            self._inbox.tell(self._vm_failed, VmFailed(f"the virtual machine could not be run: {error!r}"))

    async def _watch_vm(self, vm: Vm) -> None:
        self._inbox.tell(self._vm_failed, VmFailed(await vm.lost()))

    async def _start_process(self, vm: Vm) -> None:
        try:
            self._report = await self._starting.carry_out(vm, self._init)
        except AtollError as error:
            if vm.agent.connection.is_closed:
                # Why it is closed, the watcher finds out: a VM that was killed is a better reason than its silence.
                return
            self._inbox.tell(self._process_refused, error)
        else:
            self._inbox.tell(self._process_started)

    async def _stop_process(self, number: int, timeout_s: float | None) -> None:
        await self._has_process.wait()
        vm = self._vm
        assert vm is not None, "a process runs in a VM"
        with suppress(AtollError):
            await vm.machine.resume()  # it may be paused, or about to be
        for step, wait_s in ({number: timeout_s} | {int(signal.SIGKILL): _AFTER_SIGKILL_S}).items():
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    with suppress(AtollError):
                        await vm.agent.signal(Signal(id=INIT, signal=step))
                    await asyncio.shield(self._init.exited)
                    return
        self._inbox.tell(self._vm_failed, VmFailed("the guest did not carry out SIGKILL, so its VM was ended"))

    async def _conclude(self, exited: Exited) -> None:
        await self._init.wait_output()
        self._inbox.tell(self._output_is_complete, exited)

    async def _conclude_failure(self, error: AtollError, code: int, by_user: bool) -> None:
        await self._init.wait_output()
        self._inbox.tell(self._has_failed, error, code, by_user)

    async def _change_vm(
        self,
        change: Awaitable[None],
        then: "Callable[[asyncio.Future[None]], None]",
        asked: "asyncio.Future[None]",
    ) -> None:
        try:
            await change
        except AtollError as error:
            self._inbox.tell(partial(refuse, asked, error))
        else:
            self._inbox.tell(then, asked)

    @property
    def _stop_signal(self) -> int:
        name = self.spec.config.stop_signal
        if name.isdecimal():
            return int(name)
        return int(signal.Signals.__members__.get(f"SIG{name.upper().removeprefix('SIG')}", signal.SIGTERM))
