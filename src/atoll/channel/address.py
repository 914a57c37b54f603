"""Unix sockets of our processes: only their owner and root talk to them.

A unix socket's address holds 107 bytes of path, fewer than a state directory may have; so the
directory is opened and the address given relative to the descriptor.
"""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOG = logging.getLogger(__name__)
_CREDENTIALS = struct.Struct("3i")


def listen(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A listening socket for its owner only; an older one at the same place is replaced."""
    path.unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX, kind)
    try:
        # Before it is bound: nobody can connect in between, and the umask of a whole process stays as it is.
        os.fchmod(server.fileno(), 0o600)
        with _address(path) as address:
            server.bind(address)
        server.listen(128)
        server.setblocking(False)
    except BaseException:
        server.close()
        raise
    return server


@contextmanager
def listening(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[socket.socket]:
    """Listen as `listen` does; at the end the address goes, unless another process has it by then."""
    with listen(path, kind) as server:
        ours = path.stat().st_ino
        try:
            yield server
        finally:
            with suppress(FileNotFoundError):
                if path.stat().st_ino == ours:
                    path.unlink()


def connect(path: Path, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket connected to who listens at `path`; raises `OSError` when nobody does."""
    client = socket.socket(socket.AF_UNIX, kind)
    try:
        with _address(path) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


async def clients(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """Whoever connects and may, for ever; the others are turned away."""
    loop = asyncio.get_running_loop()
    while True:
        client, _ = await loop.sock_accept(listener)
        if peer_may(client):
            yield client
        else:
            _LOG.warning("user %d was turned away", _peer(client)[1])
            client.close()


def peer_pid(sock: socket.socket) -> int:
    """The process that listened or connected at the other end."""
    return _peer(sock)[0]


def peer_may(sock: socket.socket) -> bool:
    """Whether the other end is of root or of our own user, who in a user namespace of ours is its root."""
    return _peer(sock)[1] in (0, os.geteuid())


def _peer(sock: socket.socket) -> tuple[int, int, int]:
    pid, uid, gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid, gid


@contextmanager
def _address(path: Path) -> Iterator[str]:
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
