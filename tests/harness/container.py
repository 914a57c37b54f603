"""A container as a test talks about it."""

import json
from dataclasses import dataclass
from typing import Any

from harness.command import Finished
from harness.engine import EngineUnderTest
from harness.process import Process


@dataclass(frozen=True)
class Container:
    """A container by its full id; every method goes through the `atoll` command."""

    id: str
    engine: EngineUnderTest

    def exec(self, *command: str, input: bytes | str = b"") -> Finished:
        """`atoll exec [-i]` of `command`; stdin is passed on when there is `input`."""
        flags = ("-i",) if input else ()
        return self.engine.atoll("exec", *flags, self.id, *command, input=input)

    def logs(self, *flags: str) -> Finished:
        """`atoll logs`."""
        return self.engine.atoll("logs", *flags, self.id)

    def start(self) -> None:
        """`atoll start`."""
        self.engine.atoll.ok("start", self.id)

    def stop(self) -> None:
        """`atoll stop`, with no time to obey: tests do not wait."""
        self.engine.atoll.ok("stop", "-t", "0", self.id)

    def wait(self) -> int:
        """`atoll wait`: the exit code, when it has ended."""
        return int(self.engine.atoll.ok("wait", self.id))

    def inspect(self) -> Any:
        """The object that `atoll inspect` prints."""
        return json.loads(self.engine.atoll.ok("inspect", self.id))[0]

    @property
    def status(self) -> str:
        """Docker's word for its state: created, running, exited, ..."""
        return str(self.inspect()["State"]["Status"])

    @property
    def vmm(self) -> Process:
        """QEMU's process."""
        return Process.of(self.inspect()["State"]["Pid"])

    @property
    def runtime(self) -> Process:
        """The runtime's process."""
        return self.vmm.parent
