"""A container's start as its guest gets it: one request, which may wait for the host's part of it."""

import time
from contextlib import suppress

from msgspec.structs import replace

from atoll.errors import AtollError
from atoll.guest import Agent, container_mounts, start_request
from atoll.model.container import BundleSpec
from atoll.model.runtime import StartReport
from atoll.runtime.phases import guest_phases
from atoll.runtime.process import ContainerProcess
from atoll.runtime.vm import Vm


class Starting:
    """The start of `spec`'s container; `hold`: nothing of it runs, `waits`: it does not begin before `proceed`."""

    def __init__(self, spec: BundleSpec, *, hold: bool = False, waits: bool = False) -> None:
        self._spec = spec
        self._hold = hold
        self._waiting: Agent | None = None
        self.waits = waits

    async def carry_out(self, vm: Vm, init: ContainerProcess) -> StartReport:
        """Have the guest start it; returns how that went, raises `StartFailed` and its kind, `AgentFailed`."""
        config, is_run = self._spec.config, not self._hold
        stdio = init.open_streams(
            vm.agent.connection,
            stdin=is_run and config.open_stdin,
            stdout=is_run,
            stderr=is_run and not config.terminal,
        )
        request = start_request(
            config,
            id=self._spec.id,
            layers=self._spec.layers,
            trees=self._spec.trees,
            image=vm.image,
            writable=vm.writable,
            stdio=stdio,
            mounts=container_mounts(self._spec, image=vm.image, volumes=vm.volumes),
            interfaces=self._spec.interfaces,
            resolvers=self._spec.resolvers,
            host_gateway=self._spec.host_gateway,
            growth_mib=vm.growth_mib,
            hold=self._hold,
            waits=self.waits,
        )
        if self.waits:
            self._waiting = vm.agent
        asked_s = time.monotonic()
        started = await vm.agent.start(request)
        phases = (*vm.report.phases, *guest_phases(started, asked_s, time.monotonic()))
        return replace(vm.report, phases=phases)

    async def proceed(self) -> None:
        """What it has waited for is there. How it goes on, `carry_out` tells."""
        self.waits = False
        if self._waiting is not None:
            with suppress(AtollError):
                await self._waiting.proceed()
