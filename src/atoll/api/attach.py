"""Route of attach: a client on the standard streams of a container's first process."""

import time

from aiohttp import web

from atoll.api.detach import DetachKeys, detach_sequence
from atoll.api.hijack import MULTIPLEXED, RAW, Hijacked, HijackedConnection
from atoll.api.logs import log_pieces
from atoll.api.multiplex import header
from atoll.api.requests import container_of, engine_of, flag
from atoll.api.streaming import serve_session
from atoll.engine.container import Container
from atoll.errors import InvalidRequest


async def attach(request: web.Request) -> web.StreamResponse:
    """Attach; before the container starts as well, so that no byte is missed."""
    container = container_of(request)
    stdin, stdout, stderr = (flag(request, name) for name in ("stdin", "stdout", "stderr"))
    if not (flag(request, "logs") or flag(request, "stream")):
        raise InvalidRequest("attach needs logs=1 or stream=1")
    terminal = container.record.config.terminal
    keys = detach_sequence(request.query.get("detachKeys", ""))
    attached_ns = time.time_ns()
    shows_output = stdout or stderr
    async with container.attach(stdin=stdin, stdout=stdout or not shows_output, stderr=stderr) as attachment:
        with HijackedConnection.take(request, RAW if terminal else MULTIPLEXED) as connection:
            if flag(request, "logs"):
                await _send_log(request, container, connection, until_ns=attached_ns)
            if not flag(request, "stream"):
                return Hijacked()
            session = await connection.unless_gone(attachment.session())
            if session is not None:
                ended = await serve_session(
                    connection,
                    session,
                    multiplexed=not terminal,
                    detach_keys=DetachKeys(keys) if terminal else None,
                    shows_output=shows_output,
                )
                if not ended:
                    container.publish("detach")
    return Hijacked()


async def _send_log(request: web.Request, container: Container, connection: HijackedConnection, until_ns: int) -> None:
    """What the container printed before; then it is the session's turn."""
    directory = engine_of(request).paths.bundle(container.id) / "log"
    for stream, data in log_pieces(directory, until_ns=until_ns):
        if container.record.config.terminal:
            await connection.write(data)
        else:
            await connection.write(header(stream, len(data)), data)


ROUTES = (("POST", "/containers/{name}/attach", attach),)
