"""A terminal with a person at it: tmux runs the command, the test types and reads.

`expect` reads what the program writes as it is written (tmux pipes it into a fifo), so nothing polls;
`screen` is what a person would see now.
"""

import os
import re
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.checkout import program


class Terminal:
    """A tmux server of our own with one window."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        """Nothing is started yet: see `terminal`."""
        self._tmux = program("tmux")
        self._socket = directory / "tmux.sock"
        self._fifo = directory / "output"
        self._environment = {**environment, "TERM": "xterm", "LC_ALL": "C.UTF-8"}
        self._seen = b""
        self._descriptor = -1

    def open(self, columns: int, rows: int) -> None:
        """Start a shell in a window of this size."""
        os.mkfifo(self._fifo)
        # Read and write, so that neither opening waits and tmux may go without an end-of-file.
        self._descriptor = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK)
        self._run(
            "-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "env PS1='ready> ' sh -i"
        )
        self._run("set-option", "-g", "window-size", "manual")
        self._run("pipe-pane", "-O", f"exec cat >{self._fifo}")
        self.type("echo terminal $((40 + 2))")
        self.expect("terminal 42")

    def type(self, line: str, enter: bool = True) -> None:
        """Type `line` as a person would, and Enter."""
        self._run("send-keys", "-l", line)
        if enter:
            self.press("Enter")

    def press(self, *keys: str) -> None:
        """Press keys by tmux's names: `C-c`, `C-p`, `Enter`, `Up`."""
        self._run("send-keys", *keys)

    def resize(self, columns: int, rows: int) -> None:
        """Change the window's size."""
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def expect(self, pattern: str, timeout_s: float = 60.0) -> str:
        """Wait until the output matches the regular expression, take it from the input, return the match."""
        deadline = time.monotonic() + timeout_s
        expression = re.compile(pattern.encode())
        while not (match := expression.search(self._seen)):
            remaining_s = deadline - time.monotonic()
            readable, _, _ = select.select([self._descriptor], [], [], max(0.0, remaining_s))
            assert readable, f"no {pattern!r} within {timeout_s:g} s; the screen is:\n{self.screen()}"
            self._seen += os.read(self._descriptor, 65536)
        self._seen = self._seen[match.end() :]
        return match.group().decode(errors="replace")

    def screen(self) -> str:
        """What is on the screen now."""
        return self._run("capture-pane", "-p").rstrip("\n")

    def close(self) -> None:
        """End the shell and tmux."""
        if self._descriptor >= 0:
            self._run("kill-server")
            os.close(self._descriptor)

    def _run(self, *arguments: str) -> str:
        line = [os.fspath(self._tmux), "-S", os.fspath(self._socket), *arguments]
        done = subprocess.run(line, env=dict(self._environment), check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout


@contextmanager
def terminal(directory: Path, environment: Mapping[str, str], columns: int = 80, rows: int = 24) -> Iterator[Terminal]:
    """An open terminal with `environment`; its files live in `directory`."""
    opened = Terminal(directory, environment)
    try:
        opened.open(columns, rows)
        yield opened
    finally:
        opened.close()
