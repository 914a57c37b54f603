"""How containers of an engine start: waiting for its template and its pool, and looking into a template's memory."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.engine import EngineUnderTest
from harness.process import Process

READY_S = 60.0
_LOOK_S = 0.05
_PIECE_BYTES = 1 << 20
TEMPLATE_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def status(engine: EngineUnderTest) -> Any:
    """What `atoll system status` says, as an object."""
    return json.loads(engine.atoll.ok("system", "status", "--format", "json"))


def wait_for_pool(engine: EngineUnderTest) -> None:
    """Return when the pool is full."""
    deadline = time.monotonic() + READY_S
    while (pool := status(engine)["Pool"])["Ready"] < pool["Size"]:
        assert time.monotonic() < deadline, f"the pool is not full: {pool}\n{engine.log()[-2000:]}"
        time.sleep(_LOOK_S)


def start_kind(engine: EngineUnderTest, *arguments: str) -> str:
    """`cold`, `clone` or `pool`: how `atoll run --rm --timings` of a container started it."""
    done = engine.atoll("run", "--rm", "--timings", *arguments)
    assert done.code == 0, str(done)
    return done.stderr.partition("start: ")[2].partition(",")[0]


def virtual_machines(engine: EngineUnderTest, name: str) -> list[Process]:
    """The QEMU processes of an engine whose guest's name begins with `name`: `atoll-spare`, `atoll-template`."""
    mark = f"guest={name}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdecimal() else []
            if any(word.startswith(mark) for word in words) and _belongs_to(entry, engine):
                found.append(Process.of(int(entry.name)))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def _belongs_to(entry: Path, engine: EngineUnderTest) -> bool:
    return os.fsencode(f"ATOLL_ROOT={engine.root}") in (entry / "environ").read_bytes().split(b"\0")


@contextmanager
def template_memory(engine: EngineUnderTest) -> Iterator[int]:
    """A descriptor of the RAM of the template that the engine has loaded."""
    for link in Path(f"/proc/{engine.process.pid}/fd").iterdir():
        if "atoll-template-memory" in os.fspath(link.readlink()):
            descriptor = os.open(link, os.O_RDONLY)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
            return
    raise AssertionError("the engine has no template loaded")


def digest(descriptor: int) -> str:
    """Of all that is in a file."""
    found = hashlib.sha256()
    position = 0
    while piece := os.pread(descriptor, _PIECE_BYTES, position):
        found.update(piece)
        position += len(piece)
    return found.hexdigest()


def memory_holds(process: Process, mark: bytes) -> bool:
    """Whether `mark` is anywhere in what a process has in memory."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        return any(_span_holds(memory.fileno(), start, end, mark) for start, end in _resident_spans(process))


def _resident_spans(process: Process) -> Iterator[tuple[int, int]]:
    """Start and end of every mapping of which some is resident: the room for growth is 64 GiB of nothing."""
    span = ""
    for line in Path(f"/proc/{process.pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and ":" not in first:
            span = first if rest[0].startswith("r") and "[v" not in line else ""
        elif first == "Rss:" and span and rest[0] != "0":
            start, end = span.split("-")
            yield int(start, 16), int(end, 16)


def _span_holds(memory: int, start: int, end: int, mark: bytes) -> bool:
    position, tail = start, b""
    while position < end:
        try:
            piece = os.pread(memory, min(_PIECE_BYTES, end - position), position)
        except OSError:
            piece = b""
        if not piece:  # nothing there that could be read
            position, tail = position + _PIECE_BYTES, b""
            continue
        if mark in tail + piece:
            return True
        position, tail = position + len(piece), piece[-len(mark) :]
    return False
