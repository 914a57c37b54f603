"""The agent's requests as methods: the typed end of the channel into a guest (`docs/protocol.md`).

Every answer is checked against its type; nothing else of the agent's is believed. Each request has a
deadline: generous, because an emulated guest on a busy host is slow, and finite, because a guest may be hostile.
"""

import socket
from collections.abc import Callable
from types import TracebackType
from typing import Literal

from msgspec import Raw

from atoll.channel import PROTOCOL, Connection, ProtocolViolation, decode
from atoll.errors import AgentFailed, BootFailed
from atoll.model.agent import (
    Connect,
    Disconnect,
    Exec,
    Exited,
    Hello,
    PathStat,
    ProcessList,
    Profile,
    ReadArchive,
    ReadChanges,
    ReadStream,
    Resize,
    Signal,
    Start,
    Started,
    Statistics,
    StatPath,
    WriteArchive,
)

_ANSWER_S = 30.0
_START_S = 120.0
# A lookup may wait for a disk that others keep busy.
_FILES_S = 60.0

FileMethod = Literal["read_archive", "write_archive", "read_root", "changes", "read_changes"]
FileWork = ReadArchive | WriteArchive | ReadStream | ReadChanges
"""What `FileMethod`s take."""


class Agent:
    """One guest's agent. Takes over `sock`, the host's end of the agent's port; use as an async context.

    `on_exited` is called when a process has ended, after its last byte of output has been received.
    """

    def __init__(self, sock: socket.socket, on_exited: Callable[[Exited], None]) -> None:
        self._on_exited = on_exited
        self.connection = Connection(sock, "the agent", self._take_event)

    async def __aenter__(self) -> "Agent":
        self.connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.connection.close("its connection was closed by us")

    async def hello(self, deadline_s: float) -> Hello:
        """Wait for the guest to come up; raises `BootFailed` when it does not in time, or speaks otherwise."""
        try:
            hello = await self.connection.hello(deadline_s)
        except TimeoutError:
            raise BootFailed(f"the guest did not come up within {deadline_s:g} s") from None
        if hello.protocol != PROTOCOL:
            raise BootFailed(f"the agent speaks protocol {hello.protocol}, we speak {PROTOCOL}: install both again")
        return hello

    async def ping(self, deadline_s: float) -> None:
        """Wait until the agent of a clone answers; its HELLO was for the template. Raises `BootFailed`."""
        self.connection.assume_hello(Hello(protocol=PROTOCOL, agent_version="", kernel=""))
        try:
            await self.answer(deadline_s)
        except AgentFailed as error:
            raise BootFailed(f"the clone of a template does not answer: {error}") from error

    async def answer(self, deadline_s: float) -> None:
        """Wait for any answer; raises `AgentFailed` when there is none in time."""
        await self.connection.call("ping", None, None, deadline_s)

    async def prepare_template(self) -> None:
        """Have everything bound that is bound in a clone; raises `AgentFailed`."""
        await self.connection.call("prepare_template", None, None, _START_S)

    async def forget(self, next_profile: Profile) -> None:
        """Have nothing left of a container that has ended, and all ready for the next; raises `AgentFailed`."""
        await self.connection.call("forget", next_profile, None, _ANSWER_S)

    async def start(self, request: Start) -> Started:
        """Start the container; raises `StartFailed` and its kind."""
        return await self.connection.call("start", request, Started, _START_S)

    async def proceed(self) -> None:
        """Have a start that `waits` go on; raises `Conflict` when none does, for it has failed."""
        await self.connection.call("proceed", None, None, _ANSWER_S)

    async def exec(self, request: Exec) -> Started:
        """Start one more process; raises `StartFailed` and its kind."""
        return await self.connection.call("exec", request, Started, _START_S)

    async def signal(self, request: Signal) -> None:
        """Send a signal; raises `NotFound` when the process has ended."""
        await self.connection.call("signal", request, None, _ANSWER_S)

    async def resize(self, request: Resize) -> None:
        """Set the size of a terminal."""
        await self.connection.call("resize", request, None, _ANSWER_S)

    async def processes(self) -> ProcessList:
        """The container's processes."""
        return await self.connection.call("processes", None, ProcessList, _ANSWER_S)

    async def statistics(self) -> Statistics:
        """The container's and the guest's use of resources."""
        return await self.connection.call("statistics", None, Statistics, _ANSWER_S)

    async def connect(self, request: Connect) -> None:
        """Bring one more interface up; raises `StartFailed`, `Conflict`."""
        await self.connection.call("connect", request, None, _ANSWER_S)

    async def disconnect(self, request: Disconnect) -> None:
        """Take an interface away; raises `NotFound`."""
        await self.connection.call("disconnect", request, None, _ANSWER_S)

    async def stat_path(self, request: StatPath) -> PathStat:
        """What a path of the container is; raises `NotFound`, `InvalidRequest`."""
        return await self.connection.call("stat_path", request, PathStat, _FILES_S)

    async def work_on_files(self, method: FileMethod, request: FileWork) -> None:
        """Have files moved over the stream that `request` names; returns when that is done, however long it takes."""
        await self.connection.call(method, request, None, None)

    async def poweroff(self, deadline_s: float) -> None:
        """Have the disks unmounted and the guest powered off; raises `AgentFailed` when it does not answer in time."""
        await self.connection.call("poweroff", None, None, deadline_s)

    def _take_event(self, name: str, parameters: Raw) -> None:
        if name != "exited":
            raise ProtocolViolation(f"sent the unknown event {name[:40]!r}")
        exited = decode(parameters, Exited)
        if not 0 <= exited.code <= 255:
            raise ProtocolViolation(f"sent the exit code {exited.code}")
        self._on_exited(exited)
