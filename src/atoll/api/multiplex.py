"""Docker's framing of stdout and stderr on one connection.

Each piece has a header of eight bytes: the stream (1 stdout, 2 stderr), three zeros, the length in big endian.
Source: Docker Engine API reference, "Attach to a container", stream format.
"""

import struct
from typing import Literal

_HEADER = struct.Struct(">BxxxL")
_NUMBERS = {"stdin": 0, "stdout": 1, "stderr": 2}


def header(stream: Literal["stdout", "stderr"], length: int) -> bytes:
    """The header before `length` bytes of `stream`."""
    return _HEADER.pack(_NUMBERS[stream], length)
