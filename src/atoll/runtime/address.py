"""Where a runtime listens: `runtime.sock` in its run directory."""

import socket
from pathlib import Path

from atoll.channel import address

SOCKET_NAME = "runtime.sock"


def listen(run_dir: Path) -> socket.socket:
    """A listening socket in `run_dir`, for its owner only; an older one of the same name is replaced."""
    return address.listen(run_dir / SOCKET_NAME)


def connect(run_dir: Path) -> socket.socket:
    """A socket connected to the runtime in `run_dir`; raises `OSError` when nobody listens there."""
    return address.connect(run_dir / SOCKET_NAME)
