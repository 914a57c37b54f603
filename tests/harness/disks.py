"""File systems that are small, so that a test can fill them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(directory: Path, kib: int) -> Iterator[Path]:
    """A file system of `kib` KiB, mounted below `directory`: the suite runs as root."""
    disk = directory / "small"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)
