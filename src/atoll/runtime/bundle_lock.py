"""One VM per bundle: a lock that a runtime holds as long as its VM may write to the writable disk.

A container can be started again as soon as its exit is known, while its last VM still unmounts; the new runtime
waits here for the old one. The kernel gives the lock up with the process that holds it, however it ends.
"""

import asyncio
import fcntl
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from atoll.errors import Conflict

LOCK = "lock"


@asynccontextmanager
async def bundle_lock(bundle: Path, deadline_s: float) -> AsyncIterator[None]:
    """Hold the bundle's lock; raises `Conflict` when another runtime keeps it longer than `deadline_s`."""
    fd = os.open(bundle / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            try:
                async with asyncio.timeout(deadline_s):
                    await _wait_for_lock(fd)
            except TimeoutError:
                raise Conflict(f"the last virtual machine of {bundle} has not ended within {deadline_s:g} s") from None
        yield
    finally:
        os.close(fd)


async def _wait_for_lock(fd: int) -> None:
    """Block in a thread of our own, which may be left behind: asyncio waits for the threads of its pool."""
    loop = asyncio.get_running_loop()
    locked = asyncio.Event()
    waiting = os.dup(fd)

    def block() -> None:
        try:
            fcntl.flock(waiting, fcntl.LOCK_EX)  # the lock belongs to the open file, which `fd` shares
        finally:
            os.close(waiting)
        with suppress(RuntimeError):  # the loop may be closed by now
            loop.call_soon_threadsafe(locked.set)

    threading.Thread(target=block, daemon=True).start()
    await locked.wait()
