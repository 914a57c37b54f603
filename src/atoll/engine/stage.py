"""The rehearsal's disks (`template/rehearsal.py`): an image that holds the agent's binary, and disks to throw away."""

import asyncio
import hashlib
import io
import shutil
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path

from atoll.image import make_writable_disk, write_layer
from atoll.kernel import agent_path, read_agent
from atoll.template import PROGRAM, Stage

_WRITABLE_BYTES = 16 << 20
_TEMPORARY = ".new-"


class Stages:
    """Makes stages below `root`."""

    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for stale in root.glob(f"{_TEMPORARY}*/"):  # of an engine that was killed
            shutil.rmtree(stale, ignore_errors=True)

    @asynccontextmanager
    async def stage(self) -> AsyncIterator[Stage]:
        """A stage for as long as the block lasts; raises `Unavailable` (no agent, no mke2fs), `OutOfSpace`."""
        with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=self._root) as directory:
            yield await self.build(Path(directory))

    async def build(self, directory: Path) -> Stage:
        """A stage whose disk that is thrown away is in `directory`; raises as `stage`."""
        return await asyncio.to_thread(self._make, directory)

    def _make(self, directory: Path) -> Stage:
        agent = read_agent(agent_path())
        image = self._root / f"rehearsal-{hashlib.sha256(agent).hexdigest()[:16]}.squashfs"
        if not image.exists():
            new = directory / "image"
            with FileIO(new, "x+") as file:
                write_layer(io.BytesIO(_tar(agent)), file)
            new.rename(image)
            for other in self._root.glob("rehearsal-*.squashfs"):
                if other != image:
                    other.unlink(missing_ok=True)
        writable = directory / "writable.ext4"
        make_writable_disk(writable, _WRITABLE_BYTES, self._root, directory)
        return Stage(image, writable)


def _tar(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo(PROGRAM.removeprefix("/"))
        entry.mode, entry.size = 0o755, len(program)
        tar.addfile(entry, io.BytesIO(program))
    return buffer.getvalue()
