"""`atolld`: the engine's process. It puts engine and API together, says when it is ready, and ends on SIGTERM.

    atolld [--accel auto|kvm|tcg]

Who starts it may pass a descriptor in `ATOLL_READY_FD`: one byte means that the socket is served, anything longer is
the sentence why it cannot be. Containers outlive it. What it logs goes to standard error, which the client that starts
it connects to `engine.log`.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import signal
import sys
from contextlib import suppress

from msgspec.structs import replace

from atoll.api import serve
from atoll.engine.engine import open_engine
from atoll.errors import AtollError
from atoll.paths import paths
from atoll.settings import load_settings

log = logging.getLogger("atoll.engine")

_M_ARENA_MAX = -8  # malloc.h


def main() -> None:
    """Serve until SIGTERM, SIGINT or `POST /atoll/stop`; exit code 1 with one sentence when it cannot start."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s"
    )
    parser = argparse.ArgumentParser(prog="atolld", description="Atoll's engine; the client starts it when needed.")
    parser.add_argument("--accel", choices=["auto", "kvm", "tcg"], help="overrides the setting 'accelerator'")
    arguments = parser.parse_args()
    # Before anything else forks: a client may wait for the pipe's end.
    ready = _ready_descriptor()
    # Whoever keeps secrets names the mode; what QEMU's own user must see (a share) gets what it asks for.
    os.umask(0o022)
    _keep_one_heap()
    try:
        asyncio.run(_serve(arguments.accel, ready))
    except AtollError as error:
        log.error("%s", error)
        _tell(ready, str(error).encode())
        sys.exit(1)


async def _serve(accelerator: str | None, ready: int | None) -> None:
    here = paths()
    settings = load_settings(here.settings_file)
    if accelerator is not None:
        settings = replace(settings, accelerator=accelerator)
    async with open_engine(here, settings) as engine, serve(engine):
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, engine.stopping.set)
        log.info("serving %s, %d containers", here.socket, len(engine.containers))
        _tell(ready, b"1")
        engine.warm_up()
        await engine.stopping.wait()
        log.info("ending; containers run on")


def _keep_one_heap() -> None:
    """Have threads share one heap: glibc gives each its own, and keeps what a pull's threads have freed in all of them.

    60 MiB after a few pulls; the interpreter's lock leaves hardly a moment for two threads to wait for the heap.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):  # not in every C library
        library.mallopt(_M_ARENA_MAX, 1)


def _ready_descriptor() -> int | None:
    text = os.environ.pop("ATOLL_READY_FD", "")
    if not text.isdecimal():
        return None
    os.set_inheritable(int(text), False)
    return int(text)


def _tell(descriptor: int | None, word: bytes) -> None:
    if descriptor is not None:
        with suppress(OSError):
            os.write(descriptor, word)
            os.close(descriptor)
