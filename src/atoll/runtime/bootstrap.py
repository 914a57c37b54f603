"""From a bundle to a VM whose agent has answered.

Bundle -> machine specification -> machine -> HELLO: a cold boot; or, with a template, -> clone -> its answer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as changed

from atoll.errors import AgentFailed, BootFailed, Unavailable, VmFailed
from atoll.guest import Agent
from atoll.model.agent import Disk, Exited
from atoll.model.container import BundleSpec, DiskFiles
from atoll.model.runtime import StartReport
from atoll.runtime.bundle_lock import bundle_lock
from atoll.runtime.phases import Phases
from atoll.runtime.share import sharing
from atoll.runtime.vm import Console, Vm, machine_end
from atoll.template import growth_mib, machine_spec
from atoll.vmm import DiskSource, Machine, MachineSpec, QemuMonitor, SavedMachine, slots

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 3
_PREVIOUS_VM_ENDS_S = 30.0
_MACHINE_ENDS_S = 2.0
# A clone answers in some 30 ms; on a host that does twenty other things at once it takes its time.
_CLONE_ANSWERS_S = 20.0


@asynccontextmanager
async def boot_vm(
    spec: BundleSpec,
    on_exited: Callable[[Exited], None],
    template: SavedMachine | None = None,
    taps: tuple[int, ...] = (),
) -> AsyncIterator[Vm]:
    """The VM of a bundle, a clone of `template` or booted cold; leaving the context ends it, and no tap.

    A clone that does not load or does not answer is ended, and the VM boots cold. A guest that hangs on its way is
    ended and booted again, all within the bundle's time: under emulation we saw one boot in some two hundred hang
    before its kernel's first word.

    Raises `BootFailed` with the guest's last words when its agent does not answer within the bundle's time,
    `VmFailed` or `Unavailable` when there is no machine, `Conflict` when the container's last VM has not ended.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(own_bundle(spec))
        vm, failure = None, ""
        if template is not None:
            async with AsyncExitStack() as attempt:
                try:
                    vm = await _clone(spec, on_exited, template, taps, attempt)
                    stack.push_async_exit(attempt.pop_all())
                except (VmFailed, Unavailable) as error:
                    failure = str(error)
                    _LOG.warning("booting cold: %s", failure)
        if vm is None:
            vm = await _boot_cold(spec, on_exited, taps, stack)
        vm = replace(vm, report=changed(vm.report, template_failure=failure))
        yield await stack.enter_async_context(sharing(vm, spec.exports))


def own_bundle(spec: BundleSpec) -> AbstractAsyncContextManager[None]:
    """Be the only one whose VM writes to the bundle's disk; entering it raises `Conflict`."""
    return bundle_lock(Path(spec.bundle), _PREVIOUS_VM_ENDS_S)


class _Hung(Exception):
    """The machine runs, and its agent says nothing."""


async def _boot_cold(
    spec: BundleSpec, on_exited: Callable[[Exited], None], taps: tuple[int, ...], stack: AsyncExitStack
) -> Vm:
    machine = with_disks(machine_spec(spec, f"atoll-{spec.id[:12]}", taps=taps), spec)
    for attempts_left in reversed(range(_ATTEMPTS)):
        async with AsyncExitStack() as attempt:
            try:
                vm = await _boot(spec, machine, on_exited, attempt)
            except _Hung as hung:
                if not attempts_left:
                    raise BootFailed(str(hung)) from hung
                _LOG.warning("booting again: %s", hung)
            else:
                stack.push_async_exit(attempt.pop_all())
                return vm
    raise AssertionError("unreachable: the last attempt returns or raises")


async def _boot(spec: BundleSpec, whole: MachineSpec, on_exited: Callable[[Exited], None], stack: AsyncExitStack) -> Vm:
    """One attempt; what it makes is `stack`'s to end. Raises `_Hung`, `BootFailed` and what making a machine raises."""
    phases = Phases()
    with phases.phase("qemu"):
        machine = await stack.enter_async_context(QemuMonitor().create(whole))
    with phases.phase("boot"):
        console = Console(machine.console)
        await stack.enter_async_context(console.reading())
        agent = await stack.enter_async_context(Agent(machine.agent, on_exited))
        await machine.start()
        try:
            await agent.hello(spec.boot_timeout_s / _ATTEMPTS)
        except BootFailed as error:
            quote = console.quote()
            last_words = f"its console's last lines: {quote}" if quote else "its console is silent"
            raise _Hung(f"the guest did not boot: {error}; {last_words}") from error
        except AgentFailed as error:
            raise BootFailed(f"the guest did not boot: {await _machine_failure(error, machine, console)}") from error
    return vm_of(spec, machine, agent, console, StartReport(kind="cold", phases=tuple(phases.all)))


async def _clone(
    spec: BundleSpec,
    on_exited: Callable[[Exited], None],
    template: SavedMachine,
    taps: tuple[int, ...],
    stack: AsyncExitStack,
) -> Vm:
    """A clone with the bundle's disks that has answered; raises `VmFailed`, `Unavailable`."""
    phases = Phases()
    whole = with_disks(machine_spec(spec, f"atoll-{spec.id[:12]}", template, taps), spec)
    machine, agent, console = await clone(whole, on_exited, phases, stack, grown_to_mib=spec.memory_mib)
    report = StartReport(kind="clone", phases=tuple(phases.all))
    return vm_of(spec, machine, agent, console, report, growth_mib(spec.memory_mib))


async def clone(
    spec: MachineSpec,
    on_exited: Callable[[Exited], None],
    phases: Phases,
    stack: AsyncExitStack,
    *,
    grown_to_mib: int,
) -> tuple[Machine, Agent, Console]:
    """Make a machine go on from where `spec.saved` was saved, with more memory; raises `VmFailed`, `Unavailable`."""
    with phases.phase("qemu"):
        machine = await stack.enter_async_context(QemuMonitor().create(spec))
    with phases.phase("restore"):
        console = Console(machine.console)
        await stack.enter_async_context(console.reading())
        agent = await stack.enter_async_context(Agent(machine.agent, on_exited))
        await machine.start()
    with phases.phase("first answer"):
        if growth := growth_mib(grown_to_mib):
            await machine.grow(growth)
        await agent.ping(_CLONE_ANSWERS_S)
    return machine, agent, console


def with_disks(machine: MachineSpec, spec: BundleSpec) -> MachineSpec:
    """The machine with the disks of a bundle."""
    image, writable, volumes = bundle_disks(spec)
    return replace(machine, image=image, writable=writable, volumes=volumes)


def bundle_disks(spec: BundleSpec) -> tuple[DiskSource, Path | None, DiskSource | None]:
    """The disks that a bundle describes: the image's, the writable layer, the volumes."""
    writable = Path(spec.writable_disk) if spec.writable_disk is not None else None
    return _source(spec.image), writable, None if spec.volumes is None else _source(spec.volumes)


def _source(disk: DiskFiles) -> DiskSource:
    return DiskSource(Path(disk.path), disk.format, {number: Path(file) for number, file in disk.files.items()})


def vm_of(
    spec: BundleSpec, machine: Machine, agent: Agent, console: Console, report: StartReport, growth_mib: int = 0
) -> Vm:
    """The VM as the container's actor sees it."""
    return Vm(
        machine=machine,
        agent=agent,
        console=console,
        image=Disk(pci=slots.IMAGE),
        writable=Disk(pci=slots.WRITABLE) if spec.writable_disk is not None else None,
        volumes=Disk(pci=slots.VOLUMES),
        growth_mib=growth_mib,
        report=report,
    )


async def _machine_failure(error: AgentFailed, machine: Machine, console: Console) -> str:
    """Why the channel broke: the machine's end, if that is it."""
    try:
        async with asyncio.timeout(_MACHINE_ENDS_S):
            return machine_end(await machine.wait(), machine, console)
    except TimeoutError:
        quote = console.quote()
        return str(error) + (f"; its console's last lines: {quote}" if quote else "; its console is silent")
