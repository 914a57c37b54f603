"""A spare: a clone that has rehearsed and waits for a container, with the runtime that will be that container's.

It rehearses with low priority: getting ready must not slow a start that somebody waits for.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from atoll.errors import VmFailed
from atoll.guest import Agent
from atoll.model.agent import Exited
from atoll.model.container import BundleSpec, SpareSpec
from atoll.model.runtime import StartReport
from atoll.runtime.bootstrap import boot_vm, bundle_disks, clone, own_bundle, vm_of
from atoll.runtime.phases import Phases
from atoll.runtime.share import sharing
from atoll.runtime.vm import Console, Vm
from atoll.template import Exits, Stage, growth_mib, machine_spec, rehearse
from atoll.vmm import Machine, SavedMachine

_ANSWER_S = 5.0
_LOG = logging.getLogger(__name__)


class Spare:
    """A VM without a container."""

    def __init__(
        self,
        spec: SpareSpec,
        template: SavedMachine,
        taps: tuple[int, ...],
        machine: Machine,
        agent: Agent,
        console: Console,
        exits: Exits,
    ) -> None:
        self._template = template
        self._taps = taps
        self._machine = machine
        self._spec = spec
        self._agent = agent
        self._console = console
        self._exits = exits

    @asynccontextmanager
    async def boot(self, spec: BundleSpec, on_exited: Callable[[Exited], None]) -> AsyncIterator[Vm]:
        """The VM as that of a bundle; another one if this one fails. Raises as `boot_vm`."""
        async with AsyncExitStack() as stack:
            try:
                async with AsyncExitStack() as attempt:
                    await attempt.enter_async_context(own_bundle(spec))
                    vm = await self._become(spec, on_exited)
                    vm = await attempt.enter_async_context(sharing(vm, spec.exports))
                    stack.push_async_exit(attempt.pop_all())
            except VmFailed as error:
                _LOG.warning("a spare cannot be used: %s", error)
                await self._machine.quit()
                vm = await stack.enter_async_context(boot_vm(spec, on_exited, self._template, self._taps))
            yield vm

    async def _become(self, spec: BundleSpec, on_exited: Callable[[Exited], None]) -> Vm:
        phases = Phases()
        self._exits.listener = on_exited
        with phases.phase("disks"):
            self._machine.set_priority(low=False)
            growth = growth_mib(max(spec.memory_mib, self._spec.memory_mib))
            if growth > growth_mib(self._spec.memory_mib):
                await self._machine.grow(growth)
            # QEMU is asked and its guest, too: either may have come to grief while nobody looked.
            await asyncio.gather(self._machine.change_disks(*bundle_disks(spec)), self._agent.answer(_ANSWER_S))
        report = StartReport(kind="pool", phases=tuple(phases.all))
        return vm_of(spec, self._machine, self._agent, self._console, report, growth)


@asynccontextmanager
async def open_spare(spec: SpareSpec, template: SavedMachine, taps: tuple[int, ...] = ()) -> AsyncIterator[Spare]:
    """A spare that has rehearsed; leaving the context ends its VM, and no tap. Raises `VmFailed`, `Unavailable`."""
    async with AsyncExitStack() as stack:
        exits = Exits()
        whole = machine_spec(spec, spec.name, template, taps)
        machine, agent, console = await clone(whole, exits, Phases(), stack, grown_to_mib=spec.memory_mib)
        machine.set_priority(low=True)
        stage = Stage(Path(spec.stage_image), Path(spec.stage_writable))
        await rehearse(machine, agent, exits, stage, growth_mib(spec.memory_mib), has_taps=bool(taps))
        stage.writable.unlink(missing_ok=True)
        yield Spare(spec, template, taps, machine, agent, console, exits)
