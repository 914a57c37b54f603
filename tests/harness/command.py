"""A command line that a test runs as a user would: `atoll("run", "--rm", "busybox", "true")`.

A `Command` is the program with its environment; calling it waits for the end, `start` does not.
"""

import os
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

DEFAULT_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Finished:
    """A command that has ended: its exit code and its output, as bytes (`out`, `err`) and as text."""

    arguments: tuple[str, ...]
    code: int
    out: bytes
    err: bytes

    @property
    def stdout(self) -> str:
        """Standard output as text."""
        return self.out.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text."""
        return self.err.decode(errors="replace")

    def __str__(self) -> str:
        return f"$ {shlex.join(self.arguments)}\n{self.stdout}{self.stderr}(exit code {self.code})"


@dataclass(frozen=True)
class Command:
    """A program, the arguments that every call begins with, and the environment that it sees."""

    program: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    directory: Path | None = None

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        input: bytes | str = b"",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> Finished:
        """Run with `arguments` and wait; any exit code is a result. Without `input`, stdin is at its end."""
        line = self._line(arguments)
        done = subprocess.run(
            line,
            input=input.encode() if isinstance(input, str) else input,
            capture_output=True,
            timeout=timeout_s,
            env=dict(self.environment),
            cwd=self.directory,
            check=False,
        )
        return Finished(line, done.returncode, done.stdout, done.stderr)

    def ok(
        self,
        *arguments: str | os.PathLike[str],
        input: bytes | str = b"",
        timeout_s: float = DEFAULT_TIMEOUT_S,
    ) -> str:
        """Run, insist on exit code 0, and return standard output without its last newline."""
        done = self(*arguments, input=input, timeout_s=timeout_s)
        assert done.code == 0, str(done)
        return done.stdout.removesuffix("\n")

    def start(
        self,
        *arguments: str | os.PathLike[str],
        stdin: int = subprocess.PIPE,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
    ) -> subprocess.Popen[bytes]:
        """Start and return at once; use it as a context manager, so that its pipes are closed."""
        return subprocess.Popen(
            self._line(arguments),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=dict(self.environment),
            cwd=self.directory,
        )

    def with_environment(self, **variables: str) -> "Command":
        """The same command with more environment variables."""
        return Command(self.program, {**self.environment, **variables}, self.directory)

    def in_directory(self, directory: Path) -> "Command":
        """The same command, run in `directory`."""
        return Command(self.program, self.environment, directory)

    def shell_line(self, *arguments: str) -> str:
        """The command line with `arguments`, quoted for a shell."""
        return shlex.join(self._line(arguments))

    def _line(self, arguments: tuple[str | os.PathLike[str], ...]) -> tuple[str, ...]:
        return (*self.program, *(os.fspath(argument) for argument in arguments))
