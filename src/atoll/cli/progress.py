"""How pulls, pushes, loads and imports go: bars on a terminal, lines elsewhere (each state once, as Docker)."""

import os
from collections.abc import Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from atoll.cli.session import Session

if TYPE_CHECKING:
    from rich.progress import TaskID

    from atoll.client.shapes import ProgressLine


def show_progress(
    session: Session, lines: "Iterable[ProgressLine]", *, quiet: bool = False, descriptor: int = 1
) -> None:
    """Consume `lines` and show them on `descriptor` (1 or 2); `quiet` only consumes them.

    Raises `EngineError` when a line is an error.
    """
    write = session.print if descriptor == 1 else session.warn
    with ExitStack() as stack:
        bars = _Bars(stack, descriptor) if os.isatty(descriptor) and not quiet else None
        for line in lines:
            text = line.get("stream", "").rstrip("\n") or _text(line)
            if quiet and "stream" not in line:
                continue
            if line.get("progressDetail"):
                if bars is not None:
                    bars.update(line)
            elif text:
                if bars is not None:
                    bars.finish(line)
                write(text)


def _text(line: "ProgressLine") -> str:
    status = line.get("status", "")
    return f"{line['id']}: {status}" if line.get("id") else status


class _Bars:
    """One bar for each thing that has an id and a size; rich is imported when the first one is shown."""

    def __init__(self, stack: ExitStack, descriptor: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self._progress = stack.enter_context(
            Progress(*columns, console=Console(stderr=descriptor == 2), transient=True)
        )
        self._tasks: dict[str, TaskID] = {}

    def update(self, line: "ProgressLine") -> None:
        name, detail = line.get("id", ""), line["progressDetail"]
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task("")
        self._progress.update(
            self._tasks[name],
            description=_text(line),
            completed=detail.get("current", 0),
            total=detail.get("total") or None,
        )

    def finish(self, line: "ProgressLine") -> None:
        task = self._tasks.pop(line.get("id", ""), None)
        if task is not None:
            self._progress.remove_task(task)
