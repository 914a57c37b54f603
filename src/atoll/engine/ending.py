"""How a container's end is learnt from its runtime, also from one that cannot speak any more."""

import asyncio
from datetime import UTC, datetime

from msgspec.structs import replace

from atoll.engine.record import ContainerRecord
from atoll.engine.runtimes import Launcher, Runtime
from atoll.errors import AtollError, CommandNotExecutable, CommandNotFound, VmFailed
from atoll.model.container import ContainerState, ExitStatus

LOST = 137
"""The exit code of a container whose runtime was killed: its VM got SIGKILL."""
LEAVING_S = 15.0
"""What a runtime may take from its container's end to its own."""


def start_exit_code(error: AtollError) -> int:
    """The exit code of a process that did not start, as in Docker."""
    if isinstance(error, CommandNotFound):
        return 127
    if isinstance(error, CommandNotExecutable):
        return 126
    return 128


async def wait_for_end(runtime: Runtime, launcher: Launcher, record: ContainerRecord) -> ExitStatus:
    """How the container ended; a runtime that hung up on us is ended, one that is gone may have left a note."""
    try:
        return await runtime.wait()
    except VmFailed as error:
        if (again := await launcher.find(record)) is not None:
            await end_runtime(again)
        reason = f"its runtime ended unexpectedly: {error}"
        return launcher.last_exit(record) or ExitStatus(code=LOST, finished_at=datetime.now(UTC), reason=reason)


async def wait_until_gone(runtime: Runtime) -> None:
    """Wait for a runtime whose container has ended to take its VM down and end; make it, if it does not."""
    try:
        async with asyncio.timeout(LEAVING_S):
            await runtime.wait_gone()
    except TimeoutError:
        runtime.kill()
        await runtime.wait_gone()


async def end_runtime(runtime: Runtime) -> None:
    """Kill a runtime with its VM, and return when both are gone."""
    runtime.kill()
    await runtime.wait_gone()
    await runtime.close()


def ended_record(record: ContainerRecord, status: ExitStatus) -> ContainerRecord:
    """The record after the end."""
    return replace(
        record,
        state=ContainerState.EXITED,
        pid=0,
        published=(),
        exit_code=status.code,
        error=status.reason,
        out_of_memory=status.out_of_memory,
        started_at=status.started_at or record.started_at,
        finished_at=status.finished_at,
    )
