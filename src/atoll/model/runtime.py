"""What engine and runtime say to each other, over the same frames as host and agent (`docs/protocol.md`).

Requests `proceed`, `hold`, `release`, `pause`, `resume`, `processes`, `statistics`, `state` and `wait` take no
parameters; `signal`, `resize`, `connect`, `disconnect` and work on files (`stat_path`, `read_archive`, ...) take the
agent's structs, which the runtime passes on after checking its state, streams included.

`hold` instead of `start` puts the container together without running it, so that its files can be worked on; its
result is that of `start`. `release` ends that; its result is nil.
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

from atoll.model.agent import Process, Stdio
from atoll.model.container import ContainerState


class Phase(Struct, frozen=True):
    """A part of a start, by the host's monotonic clock in seconds."""

    name: str
    begin_s: float
    end_s: float


class StartReport(Struct, frozen=True, kw_only=True):
    """How a container's VM came to be, and where the time went; `template_failure`: why its template was of no use."""

    kind: Literal["cold", "clone", "pool"]
    phases: tuple[Phase, ...] = ()
    template_failure: str = ""


class RuntimeState(Struct, frozen=True, kw_only=True):
    """Result of `start`, `hold` and `state`; `pid` is QEMU's, on the host. `report` comes once it has started.

    `is_held`: it was asked to `hold`, and is nobody's running container. `taps` are what is behind the VM's network
    devices on the host, by slot, as the keeper calls it: known before anything starts, the same until its VM ends.
    """

    state: ContainerState
    pid: int
    started_at: datetime | None = None
    report: StartReport | None = None
    is_held: bool = False
    taps: tuple[str, ...] = ()


class Claim(Struct, frozen=True, kw_only=True):
    """Request `claim` to a spare: it is the container's whose `BundleSpec` is in this file from now on. Result: nil."""

    config: str


class StartContainer(Struct, frozen=True, kw_only=True):
    """Request `start`: with `waits` the first process does not begin before the request `proceed`, whose result is nil.

    Result: `RuntimeState`.
    """

    waits: bool = False


class Stop(Struct, frozen=True, kw_only=True):
    """Request `stop`: `signal` to the first process, SIGKILL after `timeout_s` (None: never). Result: `ExitStatus`."""

    signal: int
    timeout_s: float | None


class Attach(Struct, frozen=True, kw_only=True):
    """Request `attach` to the first process: stream ids chosen by the engine. Result: nil, at once.

    Output from this moment on is copied to the streams until end-of-file or until the engine
    stops them; `stdin` is taken from the engine's stream; `close_stdin`: its end-of-file is the process's too.
    May be sent before `start`, so that no byte is missed.
    """

    stdio: Stdio
    close_stdin: bool = False


class TakeStream(Struct, frozen=True, kw_only=True):
    """Request `take_stream`: what the engine sends on it is for the request that names it next. Result: nil.

    A stream that begins before its request is under way would lose what comes first.
    """

    stream: int


class ExecStart(Struct, frozen=True, kw_only=True):
    """Request `exec`: runs `process` (its `stdio` names streams of this connection). Result: agent's `Started`."""

    id: str
    privileged: bool = False
    process: Process


class ExecWait(Struct, frozen=True, kw_only=True):
    """Request `exec_wait`: answers with `ExecExit` when the exec has ended."""

    id: str


class ExecExit(Struct, frozen=True, kw_only=True):
    """Result of `exec_wait`."""

    code: int


class WaitLog(Struct, frozen=True, kw_only=True):
    """Request `wait_log`: answers (nil) once more than `after_records` records were logged, or at the end."""

    after_records: int
