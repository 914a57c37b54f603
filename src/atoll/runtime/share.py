"""A container's host directories: a server for them at the host's end of the VM's second port.

The server (`share/`, in Rust) is a process of its own, because it is what a guest talks to: it has no other file system
than what is exported, and next to no rights. It ends with the VM, and with us.
"""

import asyncio
import logging
import os
import socket
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from msgspec.structs import replace as changed

from atoll.errors import NotFound, Unavailable, VmFailed
from atoll.model.container import Export
from atoll.runtime.phases import Phases
from atoll.runtime.vm import Vm

_PROGRAM = Path(__file__).parent.parent / "_share" / "atoll-share"
_BEGINS_S = 30.0
# What the guest has written last may wait for the host's disk.
_FINISHES_S = 10.0
_LOG = logging.getLogger(__name__)


@asynccontextmanager
async def sharing(vm: Vm, exports: tuple[Export, ...]) -> AsyncIterator[Vm]:
    """The VM, with a server for `exports` if there are any; leaving the context, after the VM's end, ends that.

    Raises `NotFound` naming the path that is not there, `VmFailed` when one cannot be shown, `Unavailable` when the
    server is not installed.
    """
    if not exports:
        yield vm
        return
    phases = Phases()
    async with AsyncExitStack() as stack:
        with phases.phase("host directories"):
            await stack.enter_async_context(_serving(vm.machine.share, exports))
        yield replace(vm, report=changed(vm.report, phases=(*vm.report.phases, *phases.all)))


@asynccontextmanager
async def _serving(port: socket.socket, exports: Sequence[Export]) -> AsyncIterator[None]:
    server = await _start(port, exports)
    try:
        await _ready(server)
        watching = asyncio.create_task(_watch(server, port))
        try:
            yield
        finally:
            watching.cancel()
            with suppress(TimeoutError, OSError):
                port.shutdown(socket.SHUT_RD)  # the end of the stream, also when the VM has not ended
                async with asyncio.timeout(_FINISHES_S):
                    await server.wait()
    finally:
        with suppress(ProcessLookupError):
            server.kill()
        await server.wait()


async def _start(port: socket.socket, exports: Sequence[Export]) -> Process:
    if not _PROGRAM.exists():
        raise Unavailable(
            f"the server of host directories is missing: {_PROGRAM} is not there; build it with 'make demo'"
        )
    with ExitStack() as stack:
        arguments, inherited = [str(port.fileno())], [port.fileno()]
        for export in exports:
            descriptor = _open(export.path)
            stack.callback(os.close, descriptor)
            inherited.append(descriptor)
            arguments.append(f"{'ro' if export.read_only else 'rw'}:{descriptor}")
        # The kernel's death signal follows the thread that forks: this one, which lives as long as the process.
        return await asyncio.create_subprocess_exec(
            _PROGRAM, *arguments, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, pass_fds=inherited
        )


def _open(path: str) -> int:
    """A descriptor of what is there, for naming it and nothing else."""
    try:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(
            f"{path}, which the container is to see, is not there: make it, or mount something else"
        ) from error
    except OSError as error:
        raise VmFailed(f"{path}, which the container is to see, cannot be opened: {error.strerror}") from error


async def _ready(server: Process) -> None:
    """Wait until it serves."""
    assert server.stdout is not None, "it was started with a pipe"
    try:
        async with asyncio.timeout(_BEGINS_S):
            if not await server.stdout.read(1):
                raise VmFailed(f"the container's host directories cannot be shown: {await _last_words(server)}")
    except TimeoutError:
        raise VmFailed(f"the server of host directories was not ready within {_BEGINS_S:g} s") from None


async def _watch(server: Process, port: socket.socket) -> None:
    """When the server ends before its time, have the guest find that out: nobody holds the port open any more."""
    words = await _last_words(server)
    if server.returncode != 0:
        _LOG.error("the container sees its host directories no longer: %s", words)
    port.close()


async def _last_words(server: Process) -> str:
    """Wait for its end, and say why it came."""
    assert server.stderr is not None, "it was started with a pipe"
    said = (await server.stderr.read()).decode(errors="replace").strip()
    status = await server.wait()
    how = f"its server was killed by signal {-status}" if status < 0 else f"its server ended with status {status}"
    return said or how
