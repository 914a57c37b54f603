"""Pipes that bytes are spliced through: lent for the moment, or for as long as the other side does not take them."""

import contextlib
import fcntl
import os
from typing import NamedTuple

PIPE_BYTES = 256 << 10
_SPARE = 32


class Pipe(NamedTuple):
    """Both ends of a pipe."""

    reader: int
    writer: int


class Pipes:
    """The pipes of one thread."""

    def __init__(self) -> None:
        self._spare: list[Pipe] = []

    def take(self) -> Pipe:
        """An empty pipe; raises `OSError` when there are no more descriptors."""
        if self._spare:
            return self._spare.pop()
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Who is not root may have 256 of that size; further ones are smaller.
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return Pipe(reader, writer)

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """The pipe is not needed any more; one with bytes in it is closed."""
        if empty and len(self._spare) < _SPARE:
            self._spare.append(pipe)
        else:
            os.close(pipe.reader)
            os.close(pipe.writer)

    def close(self) -> None:
        """Close those that nobody has."""
        while self._spare:
            self.give_back(self._spare.pop(), empty=False)
