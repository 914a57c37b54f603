"""`exit.json`: how a container ended, left in its bundle for whichever engine comes to look."""

import os
from pathlib import Path

import msgspec

from atoll.model.container import ExitStatus

EXIT = "exit.json"


def write_exit(bundle: Path, status: ExitStatus, *, durable: bool) -> None:
    """Write the record as a whole or not at all; `durable`: so that it outlives the host's power, too.

    Raises `OSError`. A bundle that is gone stays gone.
    """
    new = bundle / f"{EXIT}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, msgspec.json.encode(status))
        if durable:
            os.fsync(fd)
    finally:
        os.close(fd)
    new.rename(bundle / EXIT)
    if durable:
        directory = os.open(bundle, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
