"""Where a runtime listens: `runtime.sock` in its run directory.

A unix socket's address holds 107 bytes of path, fewer than a state directory may have; so the
directory is opened and the address given relative to the descriptor.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET_NAME = "runtime.sock"


def listen(run_dir: Path) -> socket.socket:
    """A listening socket in `run_dir`, for its owner only; an older one of the same name is replaced."""
    (run_dir / SOCKET_NAME).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    try:
        # Before it is bound: nobody can connect in between, and the umask of a whole process stays as it is.
        os.fchmod(server.fileno(), 0o600)
        with _address(run_dir) as address:
            server.bind(address)
        server.listen(128)
        server.setblocking(False)
    except BaseException:
        server.close()
        raise
    return server


def connect(run_dir: Path) -> socket.socket:
    """A socket connected to the runtime in `run_dir`; raises `OSError` when nobody listens there."""
    client = socket.socket(socket.AF_UNIX)
    try:
        with _address(run_dir) as address:
            client.connect(address)
    except BaseException:
        client.close()
        raise
    return client


@contextmanager
def _address(run_dir: Path) -> Iterator[str]:
    directory = os.open(run_dir, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{SOCKET_NAME}"
    finally:
        os.close(directory)
