"""One engine for one root: a lock that ends with the process that holds it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll.errors import Conflict


@contextmanager
def engine_lock(file: Path) -> Iterator[None]:
    """Hold the lock `file`; raises `Conflict` with the owner's process id when another engine has it.

    The descriptor is not inherited, so runtimes that outlive the engine do not keep it locked.
    """
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
            message = f"another engine (process {owner}) runs on {file.parent}: stop it, or use another ATOLL_ROOT"
            raise Conflict(message) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)
