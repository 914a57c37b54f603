"""How an engine makes runtimes: it asks a zygote, a small warm process, to fork them (`zygote.py`).

Engine and zygote talk in datagrams over a socketpair: `Launch` one way, `Launched` the other, in any order.
The zygote ends when the engine does; the runtimes that it forked do not.
"""

import asyncio
import socket
import sys
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from types import TracebackType

import msgspec
from msgspec import Struct

from atoll.errors import Unavailable, VmFailed
from atoll.vmm import SavedMachine

MAX_DATAGRAM_BYTES = 65_536


MOST_DESCRIPTORS = 2


class Launch(Struct, frozen=True):
    """Asks for a runtime of the container whose `BundleSpec` is in the file `config`, or (`SpareSpec`) of none yet.

    Two descriptors come with it when there is a template: of its memory and of its state.
    """

    number: int
    config: str
    is_spare: bool = False


class Launched(Struct, frozen=True):
    """The runtime's process id, sent when it listens (a spare's: when it is ready); or why there is none."""

    number: int
    pid: int = 0
    error: str = ""


class Spawner:
    """Forks runtimes through a zygote, which it starts, and starts again should it have died.

    Use as an async context; leaving it ends the zygote and no runtime.
    """

    def __init__(self) -> None:
        self._resources = AsyncExitStack()
        self._control: socket.socket | None = None
        self._launches: dict[int, asyncio.Future[Launched]] = {}
        self._configs: set[str] = set()
        self._numbers = count(1)

    async def __aenter__(self) -> "Spawner":
        await self._start_zygote()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._resources.aclose()

    async def spawn(
        self,
        config: Path,
        template: SavedMachine | None = None,
        *,
        is_spare: bool = False,
        deadline_s: float = 30.0,
    ) -> int:
        """Fork a runtime for the bundle of `config`; its process id, once it listens.

        With `template` its VM is a clone of that. With `is_spare` it is a VM for whatever container comes.

        Raises `VmFailed` with the reason when the runtime refuses its bundle or does not come up in time.
        """
        path, number = str(config), next(self._numbers)
        if path in self._configs:
            raise VmFailed(f"a runtime for {path} is being started already")
        if self._control is None:
            await self._resources.aclose()
            await self._start_zygote()
        assert self._control is not None
        answer: asyncio.Future[Launched] = asyncio.get_running_loop().create_future()
        self._launches[number] = answer
        self._configs.add(path)
        try:
            async with asyncio.timeout(deadline_s):
                descriptors = (template.memory, template.state) if template is not None else ()
                await _send(self._control, msgspec.json.encode(Launch(number, path, is_spare)), descriptors)
                launched = await answer
        except TimeoutError:
            raise VmFailed(f"the runtime for {path} did not come up within {deadline_s:g} s") from None
        except OSError as error:
            raise VmFailed(f"the runtimes' zygote does not take requests: {error.strerror}") from error
        finally:
            del self._launches[number]
            self._configs.discard(path)
        if launched.error:
            raise VmFailed(f"the runtime for {path} did not start: {launched.error}")
        return launched.pid

    async def _start_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._resources.callback(ours.close)
        with theirs:
            ours.setblocking(False)
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "atoll.runtime.zygote", str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                )  # fmt: skip
            except OSError as error:
                raise Unavailable(f"cannot start {sys.executable}: {error.strerror}") from error
        self._resources.push_async_callback(process.wait)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, self._take_answer, ours)
        self._resources.callback(self._hang_up, ours)
        self._control = ours

    def _take_answer(self, control: socket.socket) -> None:
        try:
            datagram = control.recv(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            datagram = b""
        if not datagram:
            self._hang_up(control)
            return
        launched = msgspec.json.decode(datagram, type=Launched)
        answer = self._launches.get(launched.number)
        if answer is not None and not answer.done():
            answer.set_result(launched)

    def _hang_up(self, control: socket.socket) -> None:
        """The end of a zygote: nobody waits for it any longer, the next launch starts another."""
        if self._control is not control:
            return
        self._control = None
        asyncio.get_running_loop().remove_reader(control)
        control.close()
        for number, answer in self._launches.items():
            if not answer.done():
                answer.set_result(Launched(number, error="the zygote ended"))


async def _send(control: socket.socket, datagram: bytes, descriptors: tuple[int, ...]) -> None:
    """Send a datagram with descriptors, waiting while the other end has no room for it; raises `OSError`."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            socket.send_fds(control, [datagram], descriptors)
        except BlockingIOError:
            writable: asyncio.Future[None] = loop.create_future()
            loop.add_writer(control, writable.set_result, None)
            try:
                await writable
            finally:
                loop.remove_writer(control)
        else:
            return
