"""A QEMU process as a `Machine`, driven over QMP on a socket that both ends had from the start."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path

from atoll.errors import VmFailed
from atoll.vmm.monitor import DiskSource, Machine, MachineSpec
from atoll.vmm.qemu.command_line import GROWTH, command_line, sources
from atoll.vmm.qemu.control import Control, control
from atoll.vmm.qemu.disks import Disks
from atoll.vmm.qemu.handover import HostEnds, open_handover
from atoll.vmm.qemu.process import Running, running, set_priority
from atoll.vmm.qemu.saving import restore, save


class QemuMonitor:
    """The `Monitor` that runs each machine in a QEMU process of its own."""

    @asynccontextmanager
    async def create(self, spec: MachineSpec) -> AsyncIterator[Machine]:
        """See `Monitor.create`."""
        async with AsyncExitStack() as stack:
            ours = stack.enter_context(ExitStack())
            with ExitStack() as theirs:
                ends, handover = open_handover(spec, ours, theirs)
                arguments = command_line(spec, handover.sockets, handover.files)
                qemu = await stack.enter_async_context(running(spec, arguments, handover.descriptors))
            channel = await stack.enter_async_context(control(qemu, ends.control))
            disks = Disks(channel, spec)
            machine = QemuMachine(spec, qemu, channel, disks, ends, handover.state)
            if spec.saved is None and not spec.taps:
                await machine.unplug_network()
            yield machine


class QemuMachine:
    """See `Machine`. `state` is QEMU's own number of the file that its saved state is in, if it has one."""

    def __init__(
        self, spec: MachineSpec, qemu: Running, control: Control, disks: Disks, ends: HostEnds, state: int | None
    ) -> None:
        self._spec = spec
        self._qemu = qemu
        self._control = control
        self._disks = disks
        self._ends = ends
        self._state = state

    @property
    def pid(self) -> int:
        """See `Machine.pid`."""
        return self._qemu.process.pid

    @property
    def agent(self) -> socket.socket:
        """See `Machine.agent`."""
        return self._ends.agent

    @property
    def console(self) -> socket.socket:
        """See `Machine.console`."""
        return self._ends.console

    @property
    def share(self) -> socket.socket:
        """See `Machine.share`."""
        return self._ends.share

    @property
    def complaints(self) -> str:
        """See `Machine.complaints`."""
        return str(self._qemu.complaints)

    async def start(self) -> None:
        """See `Machine.start`."""
        if self._state is None:
            await self._control.execute("cont")
        else:
            await restore(self._control, self._state)

    async def pause(self) -> None:
        """See `Machine.pause`."""
        await self._control.execute("stop")

    async def resume(self) -> None:
        """See `Machine.resume`."""
        await self._control.execute("cont")

    async def grow(self, added_mib: int) -> None:
        """See `Machine.grow`."""
        device = {"path": f"/machine/peripheral/{GROWTH}", "property": "requested-size", "value": added_mib << 20}
        await self._control.execute("qom-set", device)

    async def change_disks(
        self, image: DiskSource | None, writable: Path | None, volumes: DiskSource | None = None
    ) -> None:
        """See `Machine.change_disks`."""
        await self._disks.change(sources(image, writable, volumes))

    def set_priority(self, *, low: bool) -> None:
        """See `Machine.set_priority`."""
        set_priority(self.pid, low=low)

    async def save(self) -> None:
        """See `Machine.save`."""
        if self._spec.save_to is None:
            raise VmFailed("a machine that was not created to be saved cannot be saved")
        await save(self._control, self._spec.save_to.state)

    async def unplug_network(self) -> None:
        """Take the link of the network device down: there is nothing behind it."""
        await self._control.execute("set_link", {"name": "network0", "up": False})

    async def quit(self, deadline_s: float = 5.0) -> None:
        """See `Machine.quit`."""
        try:
            async with asyncio.timeout(deadline_s):
                with suppress(VmFailed):
                    await self._control.execute("quit")
                await self.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._qemu.process.kill()
            await self.wait()

    async def wait(self) -> int:
        """See `Machine.wait`."""
        return await self._qemu.process.wait()
