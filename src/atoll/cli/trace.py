"""Copying a stream that has no end, in whole records, until somebody interrupts us."""

import signal
import socket
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING

from atoll.errors import Unavailable

if TYPE_CHECKING:
    from atoll.client.http import Response


def copy_until_interrupted(response: "Response", descriptor: int) -> None:
    """Write the answer to a descriptor until its end or the first SIGINT or SIGTERM, which is no error.

    The engine is told that we hear no more and closes after a whole record, all of which we write; a second signal
    ends us as it would otherwise.
    """
    from atoll.client.streams import write_all

    interrupted = False
    stream = response.connection.socket

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        interrupted = True
        restore()
        with suppress(OSError):
            stream.shutdown(socket.SHUT_WR)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        for chunk in response.chunks():
            write_all(descriptor, chunk)
    except Unavailable:
        if not interrupted:
            raise
    finally:
        restore()
        response.close()
