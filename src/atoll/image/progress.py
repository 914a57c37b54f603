"""How transfers tell how they go: lines of Docker's progress stream."""

import time
from collections.abc import Callable

Line = dict[str, object]
Report = Callable[[Line], None]
"""Told how something goes, line by line."""

_EVERY_S = 0.1


def progress_line(status: str, digest: str, current: int | None = None, total: int = 0) -> Line:
    """A line about the blob or layer `digest`; `current` of `total` bytes are done, where that is the news."""
    detail = {} if current is None else {"current": current, "total": total}
    return {"status": status, "progressDetail": detail, "id": digest.removeprefix("sha256:")[:12]}


class Pace:
    """Lets ten lines a second through."""

    def __init__(self) -> None:
        self._due = 0.0

    def is_due(self) -> bool:
        """Whether it is time for another line."""
        if (now := time.monotonic()) < self._due:
            return False
        self._due = now + _EVERY_S
        return True
