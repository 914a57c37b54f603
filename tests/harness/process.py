"""Processes of the host as tests see them: who is whose parent, waiting for an end, what is still there."""

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process by pid; `started` (clock ticks since boot) tells it from a later one with the same pid."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> "Process":
        """The process that has `pid` now; `ProcessLookupError` if there is none."""
        return cls(pid, _started(pid))

    @property
    def parent(self) -> "Process":
        """The process that this one is a child of."""
        return Process.of(int(_status_fields(self.pid)[1]))

    @property
    def is_alive(self) -> bool:
        """Whether it still runs (a zombie does not)."""
        try:
            return _started(self.pid) == self.started and _status_fields(self.pid)[0] != "Z"
        except ProcessLookupError:
            return False

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds in RAM and shares with no other process's files (anonymous resident)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        return 0

    @property
    def uid(self) -> int:
        """The user that it runs as."""
        return Path(f"/proc/{self.pid}").stat().st_uid

    def kill(self, number: signal.Signals, timeout_s: float = 20.0) -> None:
        """Send a signal that ends it, and wait for the end."""
        descriptor = os.pidfd_open(self.pid)
        try:
            signal.pidfd_send_signal(descriptor, number)
            _wait(descriptor, timeout_s, self)
        finally:
            os.close(descriptor)

    def wait(self, timeout_s: float = 20.0) -> None:
        """Return when it has ended; fails after `timeout_s`."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if self.is_alive:
                _wait(descriptor, timeout_s, self)
        finally:
            os.close(descriptor)

    def __str__(self) -> str:
        try:
            line = Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except FileNotFoundError:
            line = "(gone)"
        return f"{self.pid}: {line[:300]}"


def processes_that_mention(mark: str) -> list[Process]:
    """Processes other than this one with `mark` in their environment, command line, directory or open files."""
    found = []
    for directory in Path("/proc").iterdir():
        if not directory.name.isdigit() or int(directory.name) == os.getpid():
            continue
        try:
            process = Process.of(int(directory.name))
            if process.is_alive and mark in _traces(directory):
                found.append(process)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _traces(directory: Path) -> str:
    """All that tells whose process this is; `directory` is its directory under /proc."""
    texts = [(directory / name).read_bytes().decode(errors="replace") for name in ("environ", "cmdline")]
    for link in [directory / "cwd", *(directory / "fd").iterdir()]:
        # A descriptor that was closed meanwhile.
        with suppress(FileNotFoundError):
            texts.append(os.fspath(link.readlink()))
    return "\n".join(texts)


def _wait(descriptor: int, timeout_s: float, process: Process) -> None:
    ended, _, _ = select.select([descriptor], [], [], timeout_s)
    assert ended, f"process {process} still runs after {timeout_s:g} s"


def _status_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the name before them may hold spaces."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None


def _started(pid: int) -> int:
    return int(_status_fields(pid)[19])
