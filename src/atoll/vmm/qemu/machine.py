"""A QEMU process as a `Machine`, driven over QMP on a socket that both ends had from the start."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress

from qemu.qmp import QMPClient, QMPError

from atoll.errors import VmFailed
from atoll.vmm.monitor import Machine, MachineSpec
from atoll.vmm.qemu.command_line import command_line
from atoll.vmm.qemu.handover import HostEnds, open_handover
from atoll.vmm.qemu.process import Running, running

# QEMU reads kernel and initramfs before it answers; a busy host takes its time.
_GREETING_S = 30.0
_COMMAND_S = 10.0
_LAST_WORDS_S = 1.0

# What fails reaches us as an exception; the library would also print it.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


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
            control = await stack.enter_async_context(_control(qemu, ends.control))
            machine = QemuMachine(qemu, control, ends)
            await machine.unplug_network()
            yield machine


class QemuMachine:
    """See `Machine`."""

    def __init__(self, qemu: Running, control: QMPClient, ends: HostEnds) -> None:
        self._qemu = qemu
        self._control = control
        self._ends = ends

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
    def complaints(self) -> str:
        """See `Machine.complaints`."""
        return str(self._qemu.complaints)

    async def start(self) -> None:
        """See `Machine.start`."""
        await self._execute("cont")

    async def pause(self) -> None:
        """See `Machine.pause`."""
        await self._execute("stop")

    async def resume(self) -> None:
        """See `Machine.resume`."""
        await self._execute("cont")

    async def unplug_network(self) -> None:
        """Take the link of the network device down: there is nothing behind it."""
        await self._execute("set_link", {"name": "network", "up": False})

    async def quit(self, deadline_s: float = 5.0) -> None:
        """See `Machine.quit`."""
        try:
            async with asyncio.timeout(deadline_s):
                with suppress(VmFailed):
                    await self._execute("quit")
                await self.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._qemu.process.kill()
            await self.wait()

    async def wait(self) -> int:
        """See `Machine.wait`."""
        return await self._qemu.process.wait()

    async def _execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        try:
            async with asyncio.timeout(_COMMAND_S):
                return await self._control.execute(command, dict(arguments) if arguments else None)
        except TimeoutError as error:
            raise VmFailed(f"QEMU did not answer {command!r} within {_COMMAND_S:g} s") from error
        except QMPError as error:
            raise VmFailed(await _why(f"QEMU did not carry out {command!r}: {error}", self._qemu)) from error


@asynccontextmanager
async def _control(qemu: Running, end: socket.socket) -> AsyncIterator[QMPClient]:
    client = QMPClient()
    try:
        try:
            async with asyncio.timeout(_GREETING_S):
                await client.connect(end)
        except TimeoutError as error:
            raise VmFailed(f"QEMU did not come up within {_GREETING_S:g} s") from error
        except QMPError as error:
            raise VmFailed(await _why("QEMU did not come up", qemu)) from error
        yield client
    finally:
        # After QEMU's end it reports the end of the stream once more.
        with suppress(QMPError, OSError, EOFError):
            await client.disconnect()


async def _why(what: str, qemu: Running) -> str:
    """`what`, and if QEMU has ended, how, and what it complained about."""
    try:
        async with asyncio.timeout(_LAST_WORDS_S):
            status = await qemu.process.wait()
            await qemu.complaints.ended()
    except TimeoutError:
        return what
    ended = f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"
    return f"{what}: {ended}" + (f" ({qemu.complaints})" if str(qemu.complaints) else "")
