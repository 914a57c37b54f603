"""From a bundle to a VM whose agent has answered: bundle -> machine specification -> machine -> HELLO."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from atoll.errors import AgentFailed, BootFailed
from atoll.guest import Agent
from atoll.model.agent import Disk, Exited
from atoll.model.container import BundleSpec
from atoll.runtime.bundle_lock import bundle_lock
from atoll.runtime.vm import Console, Vm, machine_end
from atoll.vmm import DiskSource, Machine, MachineSpec, QemuMonitor, slots

_LOG = logging.getLogger(__name__)

_ATTEMPTS = 3
_PREVIOUS_VM_ENDS_S = 30.0
_MACHINE_ENDS_S = 2.0


@asynccontextmanager
async def boot_vm(spec: BundleSpec, on_exited: Callable[[Exited], None]) -> AsyncIterator[Vm]:
    """Boot the VM of a bundle; leaving the context ends it.

    A guest that hangs on its way is ended and booted again, all within the bundle's time: under emulation we saw one
    boot in some two hundred hang before its kernel's first word.

    Raises `BootFailed` with the guest's last words when its agent does not answer within the bundle's time,
    `VmFailed` or `Unavailable` when there is no machine, `Conflict` when the container's last VM has not ended.
    """
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bundle_lock(Path(spec.bundle), _PREVIOUS_VM_ENDS_S))
        for attempts_left in reversed(range(_ATTEMPTS)):
            async with AsyncExitStack() as attempt:
                try:
                    vm = await _boot(spec, on_exited, spec.boot_timeout_s / _ATTEMPTS, attempt)
                except _Hung as hung:
                    if not attempts_left:
                        raise BootFailed(str(hung)) from hung
                    _LOG.warning("booting again: %s", hung)
                else:
                    stack.push_async_exit(attempt.pop_all())
                    break
        yield vm


class _Hung(Exception):
    """The machine runs, and its agent says nothing."""


async def _boot(spec: BundleSpec, on_exited: Callable[[Exited], None], deadline_s: float, stack: AsyncExitStack) -> Vm:
    """One attempt; what it makes is `stack`'s to end. Raises `_Hung`, `BootFailed` and what making a machine raises."""
    machine = await stack.enter_async_context(QemuMonitor().create(machine_spec(spec)))
    console = Console(machine.console)
    await stack.enter_async_context(console.reading())
    agent = await stack.enter_async_context(Agent(machine.agent, on_exited))
    await machine.start()
    try:
        await agent.hello(deadline_s)
    except BootFailed as error:
        quote = console.quote()
        last_words = f"its console's last lines: {quote}" if quote else "its console is silent"
        raise _Hung(f"the guest did not boot: {error}; {last_words}") from error
    except AgentFailed as error:
        raise BootFailed(f"the guest did not boot: {await _machine_failure(error, machine, console)}") from error
    return Vm(
        machine=machine,
        agent=agent,
        console=console,
        image=Disk(pci=slots.IMAGE),
        writable=Disk(pci=slots.WRITABLE) if spec.writable_disk is not None else None,
    )


def machine_spec(spec: BundleSpec) -> MachineSpec:
    """The machine that a bundle describes."""
    return MachineSpec(
        kernel=Path(spec.kernel),
        initramfs=Path(spec.initramfs),
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
        accelerator=spec.accelerator,
        image=DiskSource(
            Path(spec.image_disk), "vmdk", {number: Path(file) for number, file in spec.image_files.items()}
        ),
        writable=Path(spec.writable_disk) if spec.writable_disk is not None else None,
        uid=spec.vm_uid,
        qemu=spec.qemu,
        name=f"atoll-{spec.id[:12]}",
    )


async def _machine_failure(error: AgentFailed, machine: Machine, console: Console) -> str:
    """Why the channel broke: the machine's end, if that is it."""
    try:
        async with asyncio.timeout(_MACHINE_ENDS_S):
            return machine_end(await machine.wait(), machine, console)
    except TimeoutError:
        quote = console.quote()
        return str(error) + (f"; its console's last lines: {quote}" if quote else "; its console is silent")
