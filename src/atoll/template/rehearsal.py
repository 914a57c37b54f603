"""The rehearsal: a container that does nothing, run in a guest before the real one.

Everything that a start goes through is gone through once: block devices, file systems, namespaces, execve(2), streams,
the end. What the guest's kernel makes when it is first used is there afterwards, and so, under emulation, is the
translation of all that code, which is most of what a start costs.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import AgentFailed
from atoll.guest import Agent, exec_request, profile, start_request
from atoll.model.agent import Disk, Exited, Extent, Process, Stdio
from atoll.model.container import ContainerConfig
from atoll.model.network import Interface
from atoll.model.runtime import ExecStart
from atoll.vmm import DiskSource, Machine, slots

PROGRAM = "/rehearsal"
"""The agent's binary in the rehearsal's image: under this name it copies its input to its output, and ends."""
_DEADLINE_S = 60.0
_INIT, _EXEC = "init", "exec"
_CONFIG = ContainerConfig(image="", image_id="", command=(PROGRAM,), hostname="rehearsal", open_stdin=True)
# Addresses for documentation (RFC 5737, RFC 3849): nobody's.
_INTERFACE = Interface(
    pci=slots.NETWORKS[0],
    name="eth0",
    mac="02:00:00:00:00:01",
    addresses=("192.0.2.2/24", "2001:db8::2/64"),
    gateways=("192.0.2.1", "2001:db8::1"),
)


@dataclass(frozen=True)
class Stage:
    """The rehearsal's disks: a squashfs with the program, and an ext4 that is thrown away."""

    image: Path
    writable: Path


class Exits:
    """Who is told of the end of a guest's processes: at first the rehearsal, later the container."""

    def __init__(self) -> None:
        self.listener: Callable[[Exited], None] = lambda _: None

    def __call__(self, exited: Exited) -> None:
        """Pass it on."""
        self.listener(exited)


async def rehearse(
    machine: Machine, agent: Agent, exits: Exits, stage: Stage, growth_mib: int = 0, *, has_taps: bool
) -> None:
    """Run a container of `stage` to its end and leave nothing of it; raises `VmFailed`, `StartFailed`.

    It begins when the `growth_mib` of memory that the machine was offered have come. With taps it is on a network,
    whose other end leads nowhere yet.
    """
    await machine.change_disks(DiskSource(stage.image), stage.writable)
    try:
        async with asyncio.timeout(_DEADLINE_S):
            layer = Extent(0, stage.image.stat().st_size)
            await _perform(agent, exits, layer, growth_mib, (_INTERFACE,) if has_taps else ())
    except TimeoutError:
        raise AgentFailed(f"the rehearsal did not end within {_DEADLINE_S:g} s") from None
    await agent.forget(profile(_CONFIG))
    await machine.change_disks(None, None)


async def _perform(
    agent: Agent, exits: Exits, layer: Extent, growth_mib: int, interfaces: tuple[Interface, ...]
) -> None:
    ended = {name: asyncio.get_running_loop().create_future() for name in (_INIT, _EXEC)}
    exits.listener = lambda exited: ended[exited.id].set_result(exited.code)
    connection = agent.connection
    stdin = connection.open_writer()
    stdio = Stdio(stdin=stdin.stream, stdout=connection.next_stream(), stderr=connection.next_stream())
    output = connection.open_readers(*(number for number in (stdio.stdout, stdio.stderr) if number))
    await agent.start(
        start_request(
            _CONFIG,
            id=os.urandom(32).hex(),
            layers=(layer,),
            image=Disk(pci=slots.IMAGE),
            writable=Disk(pci=slots.WRITABLE),
            stdio=stdio,
            interfaces=interfaces,
            growth_mib=growth_mib,
        )
    )
    asked = ExecStart(id=_EXEC, process=Process(arguments=(PROGRAM,)))
    await agent.exec(exec_request(_CONFIG, asked, Stdio()))
    await ended[_EXEC]
    await stdin.write(b"rehearsal\n")
    stdin.end()
    while await output.read():
        pass
    if (code := await ended[_INIT]) != 0:
        raise AgentFailed(f"the rehearsal ended with {code}")
