"""QEMU's control channel: commands by QMP, with deadlines, and errors that say what became of QEMU."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, suppress

from qemu.qmp import EventListener, Message, QMPClient, QMPError

from atoll.errors import VmFailed
from atoll.vmm.qemu.process import Running

# QEMU reads kernel and initramfs before it answers; a busy host takes its time.
_GREETING_S = 30.0
_COMMAND_S = 10.0
_LAST_WORDS_S = 1.0

# What fails reaches us as an exception; the library would also print it.
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class Control:
    """The commands of one QEMU."""

    def __init__(self, qemu: Running, client: QMPClient) -> None:
        self._qemu = qemu
        self._client = client
        # A descriptor belongs to the command behind it.
        self._handing_over = asyncio.Lock()

    async def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> object:
        """Carry out one command; raises `VmFailed` when QEMU refuses, does not answer or has ended."""
        try:
            async with asyncio.timeout(_COMMAND_S):
                return await self._client.execute(command, dict(arguments) if arguments else None)
        except TimeoutError as error:
            raise VmFailed(f"QEMU did not answer {command!r} within {_COMMAND_S:g} s") from error
        except QMPError as error:
            raise VmFailed(await self.why(f"QEMU did not carry out {command!r}: {error}")) from error

    async def add_to_set(self, descriptor: int, number: int) -> None:
        """Give QEMU a copy of `descriptor`, which it then opens as `/dev/fdset/<number>`; raises `VmFailed`."""
        await self._hand_over(descriptor, "add-fd", {"fdset-id": number})

    async def name(self, descriptor: int, name: str) -> None:
        """Give QEMU a copy of `descriptor`, which the next command may call `name`; raises `VmFailed`."""
        await self._hand_over(descriptor, "getfd", {"fdname": name})

    async def _hand_over(self, descriptor: int, command: str, arguments: Mapping[str, object]) -> None:
        async with self._handing_over:
            try:
                self._client.send_fd_scm(descriptor)
            except (QMPError, OSError) as error:
                raise VmFailed(await self.why(f"QEMU does not take a file: {error}")) from error
            await self.execute(command, arguments)

    async def wait_for(self, events: EventListener, deadline_s: float, what: str) -> Message:
        """The next of `events`, unless QEMU ends or time runs out before: `VmFailed` says that `what` failed."""
        event = asyncio.ensure_future(events.get())
        end = asyncio.ensure_future(self._qemu.process.wait())
        try:
            await asyncio.wait([event, end], timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
            if event.done():
                return event.result()
            raise VmFailed(await self.why(f"QEMU did not {what} within {deadline_s:g} s"))
        finally:
            event.cancel()
            end.cancel()

    def listening(self, name: str) -> AbstractContextManager[EventListener]:
        """The events called `name` from now on."""
        return self._client.listener(name)

    async def why(self, what: str) -> str:
        """`what`, and if QEMU has ended, how, and what it complained about."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                status = await self._qemu.process.wait()
                await self._qemu.complaints.ended()
        except TimeoutError:
            return what
        ended = f"it was killed by signal {-status}" if status < 0 else f"it ended with status {status}"
        return f"{what}: {ended}" + (f" ({self._qemu.complaints})" if str(self._qemu.complaints) else "")


@asynccontextmanager
async def control(qemu: Running, end: socket.socket) -> AsyncIterator[Control]:
    """Connected to QEMU by our `end` of its socket, once it answers; raises `VmFailed` when it does not come up."""
    client = QMPClient()
    channel = Control(qemu, client)
    try:
        try:
            async with asyncio.timeout(_GREETING_S):
                await client.connect(end)
        except TimeoutError as error:
            raise VmFailed(f"QEMU did not come up within {_GREETING_S:g} s") from error
        except QMPError as error:
            raise VmFailed(await channel.why("QEMU did not come up")) from error
        yield channel
    finally:
        # After QEMU's end it reports the end of the stream once more.
        with suppress(QMPError, OSError, EOFError):
            await client.disconnect()
