"""Network and user namespaces as descriptors. Python has `setns` from 3.12 on only."""

import ctypes
import os
from pathlib import Path
from threading import Thread

_NEW_USER = 0x10000000
_NEW_NETWORK = 0x40000000

_LIBC = ctypes.CDLL(None, use_errno=True)


def new_network() -> int:
    """A descriptor of a network namespace that was made now; it lives as long as anybody has one. Raises `OSError`."""
    made: list[int] = []
    failed: list[OSError] = []

    def make() -> None:
        try:
            if _LIBC.unshare(_NEW_NETWORK):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(own_network(thread=True))
        except OSError as error:
            failed.append(error)

    # A namespace is a thread's: this one ends, nobody has to go back.
    thread = Thread(target=make)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return made[0]


def own_network(*, thread: bool = False) -> int:
    """A descriptor of the network namespace that we (or this thread) are in."""
    return os.open(f"/proc/{'thread-self' if thread else 'self'}/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def own_user() -> int:
    """A descriptor of the user namespace that we are in."""
    return os.open("/proc/self/ns/user", os.O_RDONLY | os.O_CLOEXEC)


def enter_network(descriptor: int) -> None:
    """Go into a network namespace; raises `OSError`."""
    _enter(descriptor, _NEW_NETWORK)


def enter_user(descriptor: int) -> None:
    """Go into a user namespace that our user has made, as its root; nothing when we are in it. Raises `OSError`.

    Only a process with one thread may.
    """
    here, there = Path("/proc/self/ns/user").stat(), os.fstat(descriptor)
    if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
        return
    _enter(descriptor, _NEW_USER)


def _enter(descriptor: int, kind: int) -> None:
    if _LIBC.setns(descriptor, kind):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
