"""A running VM as the container's actor sees it: a machine, its agent, and how the two end.

The machine's serial console is read all the time; its last lines are what an error message can quote.
"""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

from atoll.errors import AtollError
from atoll.guest import Agent
from atoll.model.agent import Disk, Exited
from atoll.model.container import BundleSpec
from atoll.model.runtime import StartReport
from atoll.vmm import Machine

_CONSOLE_BYTES = 65_536
_QUOTED_LINES = 8
_GUEST_UNMOUNTS_S = 5.0
# The machine's end and the agent's silence have one cause, and reach us in any order.
_MACHINE_ENDS_S = 2.0
_UNPRINTABLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x20-\x7e\n]")
_PANIC = re.compile(r"Kernel panic - not syncing: *(.*)")


class BootVm(Protocol):
    """How a VM is booted: for real, or by a test."""

    def __call__(self, spec: BundleSpec, on_exited: Callable[[Exited], None], /) -> AbstractAsyncContextManager["Vm"]:
        """Boot the VM of a bundle; inside the context its agent has said HELLO. Raises `VmFailed` and its kinds."""


class Console:
    """The last 64 KiB of what kernel and agent have printed on the serial line."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._tail = bytearray()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        """Take what comes while in the context."""
        task = asyncio.create_task(self._read())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        with suppress(OSError):
            while data := await loop.sock_recv(self._sock, 4096):
                self._tail += data
                del self._tail[:-_CONSOLE_BYTES]

    @property
    def panic(self) -> str | None:
        """What the guest's kernel panicked about, if it did."""
        found = _PANIC.search(self._text())
        return found[1].strip() if found else None

    def quote(self) -> str:
        """The last lines, for an error message; empty when there are none."""
        lines = [line.strip() for line in self._text().splitlines() if line.strip()]
        return " | ".join(lines[-_QUOTED_LINES:])

    def _text(self) -> str:
        return _UNPRINTABLE.sub("", self._tail.decode(errors="replace").replace("\r", "\n"))


@dataclass(frozen=True)
class Vm:
    """A machine whose agent has answered; `image`, `writable` and `volumes` are the disks' places on its bus.

    `growth_mib` of its memory were added after it had booted. `report` says how it came to be.
    """

    machine: Machine
    agent: Agent
    console: Console
    image: Disk
    writable: Disk | None
    volumes: Disk
    report: StartReport
    growth_mib: int = 0

    async def lost(self) -> str:
        """Wait until the machine has ended or its agent is lost; why, as a sentence."""
        machine = asyncio.ensure_future(self.machine.wait())
        agent = asyncio.ensure_future(self.agent.connection.wait_closed())
        try:
            await asyncio.wait([machine, agent], return_when=asyncio.FIRST_COMPLETED)
            if not machine.done():
                await asyncio.wait([machine], timeout=_MACHINE_ENDS_S)
            if machine.done():
                return machine_end(machine.result(), self.machine, self.console)
            return f"the agent is gone: {agent.result()}"
        finally:
            machine.cancel()
            agent.cancel()

    async def take_down(self, *, gently: bool) -> None:
        """End the machine; `gently`: after its disks are unmounted, if the guest does that in time."""
        if gently:
            with suppress(AtollError, TimeoutError):
                async with asyncio.timeout(_GUEST_UNMOUNTS_S):
                    await self.agent.poweroff(_GUEST_UNMOUNTS_S)
                    await self.machine.wait()
        await self.machine.quit()


def machine_end(status: int, machine: Machine, console: Console) -> str:
    """Why a machine ended that nobody had ended: from its exit status, its complaints and the guest's last words."""
    if status < 0:
        return f"the virtual machine was killed (signal {-status})"
    if (panic := console.panic) is not None:
        return f"the guest's kernel panicked: {panic}"
    said = [text for text in (machine.complaints, console.quote()) if text]
    return f"the virtual machine ended by itself (status {status})" + "".join(f"; it said: {text}" for text in said)
