"""From a bundle to a VM whose agent has answered: bundle -> machine specification -> machine -> HELLO."""

import asyncio
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

_PREVIOUS_VM_ENDS_S = 30.0
_MACHINE_ENDS_S = 2.0


@asynccontextmanager
async def boot_vm(spec: BundleSpec, on_exited: Callable[[Exited], None]) -> AsyncIterator[Vm]:
    """Boot the VM of a bundle; leaving the context ends it.

    Raises `BootFailed` with the guest's last words when its agent does not answer within the bundle's time,
    `VmFailed` or `Unavailable` when there is no machine, `Conflict` when the container's last VM has not ended.
    """
    bundle = Path(spec.bundle)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bundle_lock(bundle, _PREVIOUS_VM_ENDS_S))
        machine = await stack.enter_async_context(QemuMonitor().create(machine_spec(spec)))
        console = Console(machine.console)
        await stack.enter_async_context(console.reading())
        agent = await stack.enter_async_context(Agent(machine.agent, on_exited))
        await machine.start()
        try:
            await agent.hello(spec.boot_timeout_s)
        except (BootFailed, AgentFailed) as error:
            raise await _boot_failure(error, machine, console) from error
        yield Vm(
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


async def _boot_failure(error: BootFailed | AgentFailed, machine: Machine, console: Console) -> BootFailed:
    try:
        async with asyncio.timeout(_MACHINE_ENDS_S if isinstance(error, AgentFailed) else 0):
            reason = machine_end(await machine.wait(), machine, console)
    except TimeoutError:
        quote = console.quote()
        reason = str(error) + (f"; its console's last lines: {quote}" if quote else "; its console is silent")
    return BootFailed(f"the guest did not boot: {reason}")
