"""Between a hijacked connection and a process: its output outwards, what the client types inwards."""

import asyncio
import logging

from atoll.api.detach import DetachKeys
from atoll.api.hijack import ClientGone, HijackedConnection
from atoll.api.multiplex import header
from atoll.channel import StreamStopped
from atoll.engine.runtimes import Session
from atoll.errors import VmFailed

log = logging.getLogger("atoll.api")


async def serve_session(
    connection: HijackedConnection,
    session: Session,
    *,
    multiplexed: bool,
    detach_keys: DetachKeys | None,
    shows_output: bool = True,
) -> bool:
    """Connect the two until the output ends, the client goes, or it types the detach keys.

    Without `shows_output` the output only tells when the process ends: the client wants to send, not to see.

    Returns whether the process's output ended. A client that hangs up does not end the process; its end of file
    does reach it.
    """
    outward = asyncio.create_task(_send_output(connection, session, multiplexed, shows_output))
    inward = asyncio.create_task(_take_input(connection, session, detach_keys))
    gone = asyncio.create_task(connection.gone())
    try:
        waiting = {outward, inward, gone}
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if outward in done:
                return outward.result()
            if gone in done or (inward in done and inward.result()):
                return False
        return False
    finally:
        for task in (outward, inward, gone):
            task.cancel()
        await asyncio.gather(outward, inward, gone, return_exceptions=True)


async def _send_output(connection: HijackedConnection, session: Session, multiplexed: bool, shows_output: bool) -> bool:
    """Everything that the process prints; whether it came to its end."""
    try:
        async for stream, data in session.output():
            if not shows_output:
                continue
            if multiplexed:
                await connection.write(header(stream, len(data)), data)
            else:
                await connection.write(data)
    except ClientGone:
        return False
    except VmFailed as error:
        log.info("output ended early: %s", error)
    return True


async def _take_input(connection: HijackedConnection, session: Session, detach_keys: DetachKeys | None) -> bool:
    """Everything that the client types; whether it detached or hung up."""
    stdin = session.stdin
    try:
        while data := await connection.read():
            if detach_keys is not None:
                data = detach_keys.pass_on(data)
            if stdin is not None and data:
                try:
                    await stdin.write(data)
                except StreamStopped:
                    # The process takes no more: read on, so that the client's end is noticed.
                    stdin = None
            if detach_keys is not None and detach_keys.is_detached:
                return True
    except ClientGone:
        return True
    except VmFailed as error:
        log.info("input ended early: %s", error)
    if stdin is not None:
        stdin.end()
    return False
