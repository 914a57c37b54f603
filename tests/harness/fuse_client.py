"""A guest's kernel as the server of host directories sees it, but one that sends whatever a test likes."""

import os
import socket
import stat
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import atoll

PROGRAM = Path(atoll.__file__).parent / "_share" / "atoll-share"
ROOT = 1
LOOKUP, SETATTR, READLINK, SYMLINK, MKNOD, MKDIR, UNLINK, RENAME, LINK, OPEN, READ = (
    1,
    4,
    5,
    6,
    8,
    9,
    10,
    12,
    13,
    14,
    15,
)
SETXATTR, GETXATTR, INIT, OPENDIR, CREATE, READDIR = 21, 22, 26, 27, 35, 28

_IN = struct.Struct("<IIQQIIII")
_OUT = struct.Struct("<IiQ")
_ENTRY = struct.Struct("<QQQQII")
_ATTRIBUTES = struct.Struct("<QQQQQQIIIIIIIIII")


class Refused(Exception):
    """The server's answer is an error; `errno` says which."""

    def __init__(self, errno: int) -> None:
        super().__init__(os.strerror(errno))
        self.errno = errno


class ServerGone(Exception):
    """The server has ended."""


@dataclass(frozen=True)
class Entry:
    """What a name leads to."""

    node: int
    mode: int

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


class FuseClient:
    """One end of the stream; `process` is the server."""

    def __init__(self, stream: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.stream = stream
        self._input = stream.makefile("rb")
        self._numbers = count(1)
        self.user = 0

    def send(self, opcode: int, node: int, body: bytes = b"") -> int:
        """Send a request; its number."""
        number = next(self._numbers)
        header = _IN.pack(_IN.size + len(body), opcode, number, node, self.user, self.user, 1, 0)
        self.send_bytes(header + body)
        return number

    def send_bytes(self, message: bytes) -> None:
        """Send anything."""
        try:
            self.stream.sendall(message)
        except OSError as error:
            raise ServerGone from error

    def answer(self, number: int) -> bytes:
        """The reply to a request; raises `Refused`, `ServerGone`."""
        while True:
            header = self._read(_OUT.size)
            length, error, unique = _OUT.unpack(header)
            body = self._read(length - _OUT.size)
            if unique == number:
                if error:
                    raise Refused(-error)
                return body

    def ask(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        """Send a request and wait for its reply."""
        return self.answer(self.send(opcode, node, body))

    def negotiate(self) -> None:
        """What a kernel begins with."""
        self.ask(INIT, 0, struct.pack("<IIII", 7, 36, 1 << 17, 0xFFFF_FFFF & ~(1 << 30)) + bytes(48))

    def lookup(self, node: int, name: bytes) -> Entry:
        """What `name` is in a directory."""
        return _entry(self.ask(LOOKUP, node, name + b"\0"))

    def open(self, node: int, flags: int = os.O_RDONLY) -> int:
        """A handle of a file."""
        return int.from_bytes(self.ask(OPEN, node, struct.pack("<II", flags, 0))[:8], "little")

    def read(self, node: int, handle: int) -> bytes:
        """The beginning of an open file."""
        return self.ask(READ, node, struct.pack("<QQIIQII", handle, 0, 4096, 0, 0, 0, 0))

    def create(self, node: int, name: bytes) -> Entry:
        """Make a file in a directory."""
        flags = os.O_RDWR | os.O_CREAT
        return _entry(self.ask(CREATE, node, struct.pack("<IIII", flags, 0o100644, 0, 0) + name + b"\0"))

    def names(self, node: int) -> list[str]:
        """What is in a directory."""
        handle = int.from_bytes(self.ask(OPENDIR, node, struct.pack("<II", 0, 0))[:8], "little")
        listed = self.ask(READDIR, node, struct.pack("<QQIIQII", handle, 0, 4096, 0, 0, 0, 0))
        names = []
        while listed:
            length = int.from_bytes(listed[16:20], "little")
            names.append(listed[24 : 24 + length].decode())
            listed = listed[24 + -(-length // 8) * 8 :]
        return sorted(names)

    def _read(self, size: int) -> bytes:
        try:
            found = self._input.read(size)
        except OSError as error:
            raise ServerGone from error
        if len(found) < size:
            raise ServerGone
        return found


def _entry(body: bytes) -> Entry:
    node, *_ = _ENTRY.unpack_from(body)
    mode = _ATTRIBUTES.unpack_from(body, _ENTRY.size)[9]
    return Entry(node, mode)


@contextmanager
def fuse_client(*exports: tuple[str, Path], program: Path = PROGRAM, user: int | None = None) -> Iterator[FuseClient]:
    """A server of `exports`, each `ro` or `rw` and a path, and its client; at the end the server must end by itself."""
    with ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        ours.settimeout(60)
        arguments, inherited = [str(theirs.fileno())], [theirs.fileno()]
        for mode, path in exports:
            descriptor = os.open(path, os.O_PATH)
            stack.callback(os.close, descriptor)
            arguments.append(f"{mode}:{descriptor}")
            inherited.append(descriptor)
        with subprocess.Popen(
            [program, *arguments], pass_fds=inherited, stdout=subprocess.PIPE, user=user, group=user
        ) as process:
            theirs.close()
            assert process.stdout is not None
            assert process.stdout.read(1) == b"+"
            client = FuseClient(ours, process)
            try:
                client.negotiate()
                yield client
            finally:
                ours.shutdown(socket.SHUT_RDWR)
                try:
                    process.wait(30)
                finally:
                    process.kill()
