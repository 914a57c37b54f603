"""Route of logs: what a container printed, and with `follow` what it prints until it ends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from aiohttp import web

from atoll.api.hijack import MULTIPLEXED, RAW
from atoll.api.multiplex import header
from atoll.api.requests import container_of, engine_of, flag, moment_ns
from atoll.engine.bundle import LOG
from atoll.engine.container import Container
from atoll.errors import InvalidRequest, VmFailed
from atoll.runtime.logs import STDERR, LogPiece, LogReader


async def logs(request: web.Request) -> web.StreamResponse:
    """The log, as raw bytes for a terminal, multiplexed otherwise."""
    container = container_of(request)
    stdout, stderr = flag(request, "stdout"), flag(request, "stderr")
    if not stdout and not stderr:
        raise InvalidRequest("must specify at least one of 'stdout' or 'stderr'")
    reader = LogReader(
        engine_of(request).paths.bundle(container.id) / LOG,
        stdout=stdout,
        stderr=stderr,
        since_ns=moment_ns(request, "since"),
        until_ns=moment_ns(request, "until") or None,
        tail=_tail(request),
        timestamps=flag(request, "timestamps"),
    )
    multiplexed = not container.record.config.terminal
    response = web.StreamResponse(headers={"Content-Type": MULTIPLEXED if multiplexed else RAW})
    with reader:
        await response.prepare(request)
        if not flag(request, "follow"):
            for piece in reader.pieces():
                await _send(response, piece, multiplexed)
            return response
        async for piece in reader.follow(lambda records: _more(container, records)):
            await _send(response, piece, multiplexed)
    return response


def log_pieces(directory: Path, until_ns: int) -> Iterator[tuple[Literal["stdout", "stderr"], bytes]]:
    """Everything that was printed until then."""
    with LogReader(directory, until_ns=until_ns) as reader:
        for piece in reader.pieces():
            yield _stream(piece), piece.data


async def _more(container: Container, records: int) -> None:
    """Return when there is more in the log, or the container has ended."""
    runtime = container.runtime
    if runtime is None:
        return
    try:
        await runtime.wait_log(records)
    except VmFailed:
        return  # the runtime is gone: what is in the log is all there is


async def _send(response: web.StreamResponse, piece: LogPiece, multiplexed: bool) -> None:
    if multiplexed:
        await response.write(header(_stream(piece), len(piece.data)) + piece.data)
    else:
        await response.write(piece.data)


def _stream(piece: LogPiece) -> Literal["stdout", "stderr"]:
    return "stderr" if piece.stream == STDERR else "stdout"


def _tail(request: web.Request) -> int | None:
    """A number of lines; `all`, nothing and what is no number mean all, as in Docker."""
    text = request.query.get("tail", "")
    return int(text) if text.isdecimal() else None


ROUTES = (("GET", "/containers/{name}/logs", logs),)
