"""How keeper and segments are started: in a session of their own, by whoever needs one first.

They outlive who started them, and are nobody's children. A program of ours writes one newline to the descriptor
named by `ATOLL_READY_FD` when it serves, or why it cannot.
"""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.channel import readable
from atoll.errors import Unavailable

READY_FD = "ATOLL_READY_FD"


def tell(word: str = "") -> bool:
    """Say that we serve, or why not; whether somebody hears it. A start that was called off is nobody's wish."""
    told = os.environ.pop(READY_FD, "")
    if not told:
        return True
    try:
        os.write(int(told), f"{word}\n".encode())
    except BrokenPipeError:
        return False
    finally:
        os.close(int(told))
    return True


async def launch(command: Sequence[str], what: str, deadline_s: float) -> None:
    """Start `command` and return when it serves; raises `Unavailable` with its own words when it does not.

    Called off, it leaves a process that ends when it would serve.
    """
    ready, told = os.pipe()
    with os.fdopen(ready, "rb", buffering=0) as word:
        forking = asyncio.ensure_future(_fork(command, told))
        try:
            await asyncio.shield(forking)
        except asyncio.CancelledError:
            # Who looks for processes of ours from now on finds it.
            await asyncio.wait([forking])
            raise
        except OSError as error:
            raise Unavailable(f"{what} cannot be started: setsid (package util-linux): {error.strerror}") from error
        finally:
            os.close(told)
        try:
            async with asyncio.timeout(deadline_s):
                said = await _read(word.fileno())
        except TimeoutError:
            raise Unavailable(f"{what} did not serve within {deadline_s:g} s") from None
    if said != b"\n":
        reason = said.decode(errors="replace").strip() or f"{command[0]} ended without a word: see the engine's log"
        raise Unavailable(f"{what} did not start: {reason}")


async def _fork(command: Sequence[str], told: int) -> None:
    """Have `command` run with the descriptor to tell by; nobody has it as a child to wait for. Raises `OSError`."""
    process = await asyncio.create_subprocess_exec(
        "setsid", "--fork", *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        cwd="/",
        env={**os.environ, READY_FD: str(told)},
        pass_fds=(told,),
    )  # fmt: skip
    await process.wait()


@asynccontextmanager
async def only_one(lock: Path) -> AsyncIterator[None]:
    """Start something while nobody else does."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with lock.open("wb") as file:
        # Not in a thread that waits: who is cancelled would leave it behind, and the lock with it.
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(0.005)
        yield


async def _read(descriptor: int) -> bytes:
    """All that is written until nobody has the other end any more."""
    os.set_blocking(descriptor, False)
    said = b""
    while True:
        await readable(descriptor)
        piece = os.read(descriptor, 4096)
        said += piece
        if not piece or piece.endswith(b"\n"):
            return said
