"""The keeper as others see it: who needs taps or a network's namespace asks it, over a connection of its own.

A connection is also a sign of life: the keeper ends when the last one has.
"""

import asyncio
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import msgspec
from msgspec import Struct

from atoll.channel import address, readable
from atoll.errors import Unavailable
from atoll.network.address import keeper_socket
from atoll.network.launch import launch, only_one

MAX_DATAGRAM_BYTES = 65_536
MOST_DESCRIPTORS = 64
_START_DEADLINE_S = 20.0
_ANSWER_DEADLINE_S = 20.0


class Ask(Struct, frozen=True, kw_only=True, tag_field="ask"):
    """What is asked of a keeper."""


class AskTaps(Ask, frozen=True, kw_only=True, tag="taps"):
    """Taps in the keeper's home; their descriptors come with the answer."""

    count: int


class AskNamespace(Ask, frozen=True, kw_only=True, tag="namespace"):
    """A network's namespace, made if it is missing."""

    network_id: str


class AskEnter(Ask, frozen=True, kw_only=True, tag="enter"):
    """What a segment needs to go in: descriptors of the network's namespace, the home, and the user namespace."""

    network_id: str


class AskForget(Ask, frozen=True, kw_only=True, tag="forget"):
    """No longer hold a network's namespace."""

    network_id: str


class AskLeave(Ask, frozen=True, kw_only=True, tag="leave"):
    """Who asks ends in good order: nobody comes back for what is here, unless they are still connected."""


AnyAsk = AskTaps | AskNamespace | AskEnter | AskForget | AskLeave


class Answer(Struct, frozen=True, kw_only=True):
    """What a keeper answers, in the order in which it was asked; descriptors come with it."""

    names: tuple[str, ...] = ()
    error: str = ""


class Tap(NamedTuple):
    """A VM's network device on the host; it is there as long as somebody has `fd` open."""

    name: str
    fd: int


class Doors(NamedTuple):
    """Descriptors of a network's namespace, of the keeper's home, and of the user namespace that both belong to."""

    network: int
    home: int
    user: int


class Keeper:
    """A connection to the keeper; made by `connect` or `start_keeper`, ended by `close`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.pid = address.peer_pid(sock)
        self._sock = sock
        self._turn = asyncio.Lock()

    @classmethod
    async def connect(cls, directory: Path) -> "Keeper":
        """Connect to the keeper that listens in `directory`; raises `Unavailable` when none does."""
        try:
            return cls(address.connect(keeper_socket(directory), socket.SOCK_SEQPACKET))
        except OSError as error:
            raise Unavailable(f"no keeper of networks listens in {directory}: {error.strerror}") from error

    async def __aenter__(self) -> "Keeper":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def taps(self, count: int) -> list[Tap]:
        """New taps, whose descriptors are the caller's to close; raises `Unavailable` with the reason."""
        answer, descriptors = await self._ask(AskTaps(count=count))
        return [Tap(name, descriptor) for name, descriptor in zip(answer.names, descriptors, strict=True)]

    async def namespace(self, network_id: str) -> None:
        """Have the keeper hold a namespace for the network; raises `Unavailable`."""
        await self._ask(AskNamespace(network_id=network_id))

    async def enter(self, network_id: str) -> Doors:
        """What it takes to go into the network's namespace, made if it is missing; the caller closes them."""
        _, descriptors = await self._ask(AskEnter(network_id=network_id))
        return Doors(*descriptors)

    async def forget(self, network_id: str) -> None:
        """Let the network's namespace go; it ends with the last process in it."""
        await self._ask(AskForget(network_id=network_id))

    async def leave(self) -> None:
        """Have the keeper end without waiting for somebody to come back, once nobody else needs it."""
        await self._ask(AskLeave())

    async def wait_closed(self) -> None:
        """Wait until the keeper is gone; nothing can be asked meanwhile."""
        async with self._turn:
            await readable(self._sock)

    async def close(self) -> None:
        """Hang up."""
        self._sock.close()

    async def _ask(self, asked: AnyAsk) -> tuple[Answer, list[int]]:
        async with self._turn:
            try:
                self._sock.send(msgspec.json.encode(asked))
                async with asyncio.timeout(_ANSWER_DEADLINE_S):
                    datagram, descriptors = await self._receive()
            except BaseException as error:
                # An answer that nobody waits for would be taken for that of the next question.
                self._sock.close()
                if isinstance(error, OSError):  # TimeoutError is one
                    raise Unavailable("the keeper of networks does not answer: is it still there?") from error
                raise
        answer = msgspec.json.decode(datagram, type=Answer)
        if answer.error:
            raise Unavailable(answer.error)
        return answer, descriptors

    async def _receive(self) -> tuple[bytes, list[int]]:
        await readable(self._sock)
        datagram, descriptors, _, _ = socket.recv_fds(
            self._sock, MAX_DATAGRAM_BYTES, MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        if not datagram:
            raise ConnectionResetError
        return datagram, descriptors


async def start_keeper(directory: Path) -> Keeper:
    """Connect to the keeper in `directory`, and start it first when there is none; raises `Unavailable`."""
    with suppress(Unavailable):
        return await _connect(directory)
    async with only_one(directory / "keeper.lock"):
        with suppress(Unavailable):
            return await _connect(directory)
        await launch(_command(directory), "the keeper of networks", _START_DEADLINE_S)
        return await _connect(directory)


async def _connect(directory: Path) -> Keeper:
    """Connect to a keeper that answers: one may just be about to end."""
    keeper = await Keeper.connect(directory)
    await keeper.taps(0)
    return keeper


def _command(directory: Path) -> list[str]:
    """Root needs a network namespace only; others one of users, too, where they are root."""
    return [
        "unshare",
        *(() if os.geteuid() == 0 else ("--user", "--map-root-user")),
        "--net",
        "--",
        sys.executable, "-m", "atoll.network.keeper", str(directory),
    ]  # fmt: skip
