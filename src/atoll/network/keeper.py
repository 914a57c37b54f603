"""The keeper: makes taps, and holds a network namespace for each network. One for each engine.

    python -m atoll.network.keeper DIRECTORY

It is started in a network namespace of its own, its *home*: there taps wait for a network, and there they are when they
leave one. Without root it is also in a user namespace, as its root. Because the keeper holds the namespaces, a
segment may die: bridge, taps and filter stay, and the next segment finds them.

It knows nothing of networks beyond their ids, and ends with its last connection: at once when an engine has taken its
leave, after some seconds when all were killed, for they may come back.
"""

import asyncio
import fcntl
import logging
import os
import secrets
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from atoll.channel import address
from atoll.network import namespaces
from atoll.network.address import keeper_socket
from atoll.network.keeper_client import (
    MAX_DATAGRAM_BYTES,
    Answer,
    AnyAsk,
    AskEnter,
    AskForget,
    AskLeave,
    AskNamespace,
    AskTaps,
)
from atoll.network.launch import tell

_LOG = logging.getLogger(__name__)

_UNUSED_S = 5.0
_TUN = "/dev/net/tun"
_TUN_SET_IFF = 0x400454CA
# Frames without a protocol header of tun's own, but with that of virtio: offloads go through to the guest.
_TAP, _NO_PROTOCOL, _VIRTIO_HEADER = 0x0002, 0x1000, 0x4000
_INTERFACE_REQUEST = struct.Struct("16sH22x")
_MOST_TAPS = 16


class _Keeper:
    """What is kept, and who is connected."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._home = namespaces.own_network()
        self._user = namespaces.own_user()
        self._networks: dict[str, int] = {}
        self._clients: set[socket.socket] = set()
        self._unused: asyncio.TimerHandle | None = None
        self._is_left = False
        self.ended = asyncio.Event()
        self._note_use()

    def accept(self, listener: socket.socket) -> None:
        """Serve whoever connects and may."""
        with suppress(BlockingIOError, ConnectionError):
            client, _ = listener.accept()
            if not address.peer_may(client):
                _LOG.warning("a foreign user was turned away")
                client.close()
                return
            client.setblocking(False)
            self._clients.add(client)
            self._is_left = False
            self._note_use()
            self._loop.add_reader(client, self._take, client)

    def _take(self, client: socket.socket) -> None:
        try:
            datagram = client.recv(MAX_DATAGRAM_BYTES)
        except BlockingIOError:
            return
        except OSError:
            datagram = b""
        if not datagram:
            self._hang_up(client)
            return
        handed: list[int] = []
        temporary: list[int] = []
        try:
            asked = msgspec.json.decode(datagram, type=AnyAsk)
            names = self._answer(asked, handed, temporary)
            answer = Answer(names=names)
        except (OSError, msgspec.MsgspecError) as error:
            _LOG.warning("a request failed: %s", error)
            handed.clear()
            answer = Answer(error=reason(error))
        try:
            socket.send_fds(client, [msgspec.json.encode(answer)], handed)
        except OSError:
            self._hang_up(client)
        finally:
            for descriptor in temporary:
                os.close(descriptor)

    def _answer(self, asked: AnyAsk, handed: list[int], temporary: list[int]) -> tuple[str, ...]:
        """Carry out a request; what is `handed` goes to who asked, what is `temporary` is then closed here."""
        match asked:
            case AskTaps(count=count):
                names = tap_names(count)
                for name in names:
                    tap = _make_tap(name)
                    handed.append(tap)
                    temporary.append(tap)
                return names
            case AskNamespace(network_id=network_id):
                self._namespace(network_id)
            case AskEnter(network_id=network_id):
                handed += [self._namespace(network_id), self._home, self._user]
            case AskForget(network_id=network_id):
                with suppress(KeyError):
                    os.close(self._networks.pop(network_id))
            case AskLeave():
                self._is_left = True
        return ()

    def _namespace(self, network_id: str) -> int:
        if network_id not in self._networks:
            self._networks[network_id] = namespaces.new_network()
        return self._networks[network_id]

    def _hang_up(self, client: socket.socket) -> None:
        self._loop.remove_reader(client)
        self._clients.discard(client)
        client.close()
        self._note_use()

    def _note_use(self) -> None:
        if self._unused is not None:
            self._unused.cancel()
            self._unused = None
        if not self._clients:
            self._unused = self._loop.call_later(0.0 if self._is_left else _UNUSED_S, self.ended.set)


def tap_names(count: int) -> tuple[str, ...]:
    """Names that nobody else has: a VM's devices differ in their slot only."""
    vm = secrets.token_hex(3)
    return tuple(f"at{vm}.{slot}" for slot in range(min(count, _MOST_TAPS)))


def _make_tap(name: str) -> int:
    tap = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.ioctl(tap, _TUN_SET_IFF, _INTERFACE_REQUEST.pack(name.encode(), _TAP | _NO_PROTOCOL | _VIRTIO_HEADER))
    except BaseException:
        os.close(tap)
        raise
    return tap


def reason(error: OSError | msgspec.MsgspecError) -> str:
    """Why a request failed, and what to do."""
    if isinstance(error, PermissionError) and error.filename == _TUN:
        return (
            f"{_TUN} may not be opened: put "
            """KERNEL=="tun", MODE="0666", OPTIONS+="static_node=net/tun" into /etc/udev/rules.d/70-tun.rules"""
        )
    if isinstance(error, OSError) and error.filename == _TUN:
        return f"{_TUN} cannot be used ({error.strerror}): load the kernel module 'tun'"
    return f"the keeper of networks cannot do that: {getattr(error, 'strerror', None) or error}"


async def _serve(listener: socket.socket) -> None:
    keeper = _Keeper()
    asyncio.get_running_loop().add_reader(listener, keeper.accept, listener)
    if tell():
        await keeper.ended.wait()


def main(arguments: list[str]) -> int:
    """Keep until nobody needs it."""
    logging.basicConfig(format="%(asctime)s keeper: %(message)s")
    directory = Path(arguments[0])
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with address.listening(keeper_socket(directory), socket.SOCK_SEQPACKET) as listener:
            asyncio.run(_serve(listener))
    except OSError as error:
        tell(f"{error.filename or directory}: {error.strerror}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
