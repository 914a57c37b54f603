"""Routes of exec: one more process in a running container."""

import logging

from aiohttp import web

from atoll.api.container_config import words
from atoll.api.detach import DetachKeys, detach_sequence
from atoll.api.hijack import MULTIPLEXED, RAW, Hijacked, HijackedConnection
from atoll.api.multiplex import header
from atoll.api.requests import answer, body_of, container_of, engine_of, whole_number
from atoll.api.schemas import ExecBody, ExecStartBody, terminal_size
from atoll.api.streaming import serve_session
from atoll.engine.execs import Exec
from atoll.errors import AtollError, InvalidRequest
from atoll.model.agent import Process

log = logging.getLogger("atoll.api")


async def create(request: web.Request) -> web.Response:
    """Prepare an exec."""
    engine, container = engine_of(request), container_of(request)
    body = await body_of(request, ExecBody)
    detach_sequence(body.detach_keys or "")
    if body.working_dir and not body.working_dir.startswith("/"):
        raise InvalidRequest(f"the working directory '{body.working_dir}' is invalid, it needs to be an absolute path")
    process = Process(
        arguments=words(body.cmd),
        environment=tuple(body.env or ()),
        working_dir=body.working_dir or container.record.config.working_dir,
        user=body.user or "",
        terminal=terminal_size(body.console_size) if body.tty else None,
    )
    exec = engine.execs.create(
        container,
        process,
        privileged=bool(body.privileged),
        attach=(bool(body.attach_stdin), bool(body.attach_stdout), bool(body.attach_stderr)),
        detach_keys=body.detach_keys or "",
    )
    return answer({"Id": exec.id}, status=201)


async def start(request: web.Request) -> web.StreamResponse:
    """Start an exec: in the background, or with the connection on its streams.

    As in Docker the connection is taken before the process starts, so an error is text on the stream and the exit code
    of the exec.
    """
    engine = engine_of(request)
    exec = engine.execs.get(request.match_info["name"])
    body = await body_of(request, ExecStartBody)
    terminal = terminal_size(body.console_size) if body.console_size is not None else None
    if body.detach:
        exec.attach_stdin = exec.attach_stdout = exec.attach_stderr = False
        async with engine.execs.start(exec, terminal):
            return web.Response(status=200)
    engine.execs.check_startable(exec)
    with HijackedConnection.take(request, RAW if exec.has_terminal else MULTIPLEXED) as connection:
        keys = DetachKeys(detach_sequence(exec.detach_keys)) if exec.has_terminal else None
        try:
            async with engine.execs.start(exec, terminal) as session:
                ended = await serve_session(connection, session, multiplexed=not exec.has_terminal, detach_keys=keys)
                if ended:
                    # The client asks for the exit code as soon as the stream ends.
                    await connection.unless_gone(exec.ended.wait())
        except AtollError as error:
            log.info("exec %s did not start: %s", exec.id[:12], error)
            text = f"{error}\r\n".encode()
            await connection.write(text if exec.has_terminal else header("stdout", len(text)) + text)
    return Hijacked()


async def resize(request: web.Request) -> web.Response:
    """Set the size of an exec's terminal."""
    engine = engine_of(request)
    rows, columns = whole_number(request, "h"), whole_number(request, "w")
    if rows is None or columns is None:
        raise InvalidRequest("a terminal's size is given with h and w")
    await engine.execs.resize(engine.execs.get(request.match_info["name"]), rows, columns)
    return web.Response(status=200)


async def inspect(request: web.Request) -> web.Response:
    """All about an exec."""
    return answer(_exec_json(engine_of(request).execs.get(request.match_info["name"])))


def _exec_json(exec: Exec) -> dict[str, object]:
    arguments = exec.process.arguments
    return {
        "ID": exec.id,
        "Running": exec.running,
        "ExitCode": exec.exit_code,
        "ProcessConfig": {
            "tty": exec.has_terminal,
            "entrypoint": arguments[0],
            "arguments": list(arguments[1:]),
            "privileged": exec.privileged,
            "user": exec.process.user,
        },
        "OpenStdin": exec.attach_stdin,
        "OpenStderr": exec.attach_stderr,
        "OpenStdout": exec.attach_stdout,
        "CanRemove": False,
        "ContainerID": exec.container.id,
        "DetachKeys": "",
        "Pid": 0,
    }


ROUTES = (
    ("POST", "/containers/{name}/exec", create),
    ("POST", "/exec/{name}/start", start),
    ("POST", "/exec/{name}/resize", resize),
    ("GET", "/exec/{name}/json", inspect),
)
