"""Start the engine when nothing listens on its socket.

The engine is `python -m atoll.engine` in a session of its own. It writes one byte to the pipe named by
`ATOLL_READY_FD` when it serves, or a line that says why it cannot; a pipe that closes without either is an
engine that died. Two commands at once: a lock lets one of them start it, the other finds it running.
"""

import fcntl
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from select import POLLIN, poll

from atoll.errors import Unavailable
from atoll.paths import Paths

READY_FD = "ATOLL_READY_FD"
START_DEADLINE_S = 60.0
"""An engine that adopts many runtimes and cleans up after a reboot takes its time; one that hangs does not get more."""
LOG_TAIL_LINES = 5


def launch_engine(paths: Paths, is_served: Callable[[], bool], options: Sequence[str] = ()) -> bool:
    """Start the engine with command-line `options` and return when it serves; False when another did meanwhile.

    Raises `Unavailable` with the engine's own words when it does not come up.
    """
    try:
        paths.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        with _exclusive(paths.root / "start.lock"):
            if is_served():
                return False
            failure = _start(paths, options)
    except OSError as error:
        raise Unavailable(f"the engine cannot be started: {error.filename or paths.root}: {error.strerror}") from error
    # An engine started by hand may have won the race for the state directory: then it serves us as well.
    if failure is not None and not is_served():
        raise Unavailable(f"the engine did not start: {failure} (its log: {paths.engine_log})")
    return failure is None


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(paths: Paths, options: Sequence[str]) -> str | None:
    """Start the engine and wait for its word; None when it serves, otherwise why not."""
    # Only here: subprocess costs 5 ms, and the engine runs most of the time.
    import subprocess

    ready, told = os.pipe()
    with os.fdopen(ready, "rb", buffering=0) as word, paths.engine_log.open("ab") as log:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "atoll.engine", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, READY_FD: str(told)},
                pass_fds=(told,),
                start_new_session=True,
            )
        finally:
            os.close(told)
        waiting = poll()
        waiting.register(word, POLLIN)
        if not waiting.poll(START_DEADLINE_S * 1000):
            process.kill()
            process.wait()
            return f"it did not serve within {START_DEADLINE_S:.0f} s"
        said = word.read(1 << 16)
    if len(said) == 1:
        # It outlives us and init will reap it: keep subprocess from warning about a child still running.
        process.returncode = 0
        return None
    code = process.wait()
    return said.decode(errors="replace").strip() or _last_words(paths.engine_log) or f"it ended with exit code {code}"


def _last_words(log: Path) -> str:
    """The end of the engine's log, on one line."""
    lines = log.read_text(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-LOG_TAIL_LINES:] if line.strip())
