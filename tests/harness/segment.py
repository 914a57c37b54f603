"""A `small_segment`, and how tests talk to it."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.checkout import CHECKOUT
from harness.internet import Outside

Binding = tuple[int, str, str, int] | tuple[int, str, str, int, int]
"""Port of the container, protocol, address and port of the host, or the first and last of a range."""


class Refused(Exception):
    """The segment has refused; `kind` is the class of the error."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class SmallSegment:
    """A process that runs `small_segment`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def ask(self, **request: object) -> Any:
        """One request; raises `Refused`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if isinstance(answer, dict):
            raise Refused(answer["error"], str(answer.get("words", answer["error"])))
        return answer

    def publish(self, *bindings: Binding) -> list[tuple[str, int]]:
        """Publish these ports and no others; where on the host they are."""
        return [(ip, port) for ip, port in self.ask(put=bindings)]

    def in_container(self, *command: str) -> str:
        """What a command in the container's namespace prints."""
        return str(self.ask(run=command))


@contextmanager
def small_segment(outside: Outside, uid: int = 0, environment: Sequence[str] = ()) -> Iterator[SmallSegment]:
    """A segment on the host, run by `uid`."""
    path = f"PYTHONPATH={CHECKOUT / 'src'}:{CHECKOUT / 'tests'}"
    command = [*outside.within(uid), "env", path, "PYTHONDONTWRITEBYTECODE=1", *environment]
    with subprocess.Popen(
        [*command, sys.executable, "-m", "harness.small_segment"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path("/"),
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n", "the segment has not started"
            yield SmallSegment(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
