"""A machine that only remembers what it was told, and an agent that only answers."""

from pathlib import Path

from atoll.errors import AtollError
from atoll.vmm import DiskSource


class RecordingMachine:
    """What was asked of it, in order; `disk_error` is what its disks fail with."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []
        self.disk_error: AtollError | None = None

    def set_priority(self, *, low: bool) -> None:
        """Remember it."""
        self.asked.append(("low priority" if low else "full priority",))

    async def grow(self, added_mib: int) -> None:
        """Remember it."""
        self.asked.append(("grow", added_mib))

    async def change_disks(
        self, image: DiskSource | None, writable: Path | None, volumes: DiskSource | None = None
    ) -> None:
        """Remember it, or fail as the test wants."""
        if self.disk_error is not None:
            raise self.disk_error
        self.asked.append(("disks", image, writable, volumes))

    async def quit(self, deadline_s: float = 5.0) -> None:
        """Remember it."""
        self.asked.append(("quit",))


class AnsweringAgent:
    """Answers, unless it has an `error`."""

    def __init__(self) -> None:
        self.error: AtollError | None = None

    async def answer(self, deadline_s: float) -> None:
        """As `Agent.answer`."""
        if self.error is not None:
            raise self.error
