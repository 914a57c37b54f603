"""The HTTP server on the engine's unix socket: who may talk to it, in which version, and what an error looks like."""

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from atoll import __version__
from atoll.api import (
    archive,
    archives,
    atoll,
    attach,
    check,
    containers,
    events,
    exec,
    images,
    logs,
    networks,
    registry,
    stats,
    system,
    usage,
    volumes,
)
from atoll.api.errors import http_status
from atoll.api.hijack import ClientGone, Hijacked, is_hijacked, peer_uid
from atoll.api.requests import ENGINE, answer
from atoll.engine.engine import Engine
from atoll.errors import AtollError, Unavailable

log = logging.getLogger("atoll.api")

MOST_BODY_BYTES = 16 << 20
"""Of a JSON body; archives are streamed and may be larger."""
SHUTDOWN_S = 0.5
ERROR_HEADER = "X-Atoll-Error"

_MODULES = (
    system,
    containers,
    archive,
    attach,
    logs,
    stats,
    exec,
    archives,
    images,
    registry,
    volumes,
    networks,
    usage,
    events,
    check,
    atoll,
)
_VERSION = re.compile(r"/v(\d+)\.(\d+)/")
_NOT_YET = re.compile(
    r"(?:/v[\d.]+)?/(build|swarm|nodes|services|tasks|secrets|configs|plugins|session|"
    r"distribution|images/search|containers/[^/]+/update)"
)
# `docker inspect NAME` asks for one after the other, and goes on for as long as it is told that there is no such thing.
_NONE_OF = re.compile(r"(?:/v[\d.]+)?/(node|service|task|secret|config|plugin)s/([^/]+)(?:/json)?$")

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(engine: Engine) -> web.Application:
    """All routes, each with and without a version before it."""
    app = web.Application(middlewares=[_answer_errors, _check_caller], client_max_size=MOST_BODY_BYTES)
    app[ENGINE] = engine
    for module in _MODULES:
        for method, path, handler in module.ROUTES:
            app.router.add_route(method, path, handler)
            app.router.add_route(method, "/v{version:[0-9.]+}" + path, handler)
    app.on_response_prepare.append(_add_headers)
    return app


@asynccontextmanager
async def serve(engine: Engine) -> AsyncIterator[None]:
    """Serve `engine` on its socket for as long as the block lasts; raises `Unavailable` when it cannot be bound."""
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listen(engine.paths.socket))
        stack.callback(engine.paths.socket.unlink, missing_ok=True)
        # A handler is cancelled when its client hangs up; what must not stop half way runs in `engine.tasks`.
        runner = web.AppRunner(
            application(engine),
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_S,
            keepalive_timeout=60,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=512).start()
        yield


def _listen(path: Path) -> socket.socket:
    """A socket that only its owner can open; a stale one of a dead engine is replaced (we hold the engine's lock)."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        # Before it is bound, so that nobody can connect in between.
        os.fchmod(listener.fileno(), 0o600)
        listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise Unavailable(
            f"the engine's socket {path} cannot be made: {error} (a unix socket's path has at most 107 bytes)"
        ) from error
    return listener


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error as `{"message": ..., "code": ...}` with its status; what nobody expected is logged.

    Docker's clients read the message; `code` is the error's name in `atoll.errors`, for ours.
    """
    code = "internal"
    try:
        return await handler(request)
    except ClientGone:
        return Hijacked()
    except (ConnectionError, asyncio.CancelledError):
        raise
    except AtollError as error:
        status, message, code = http_status(error), str(error), error.code
        if status >= 500:
            log.warning("%s %s: %s", request.method, request.path, message)
    except web.HTTPException as error:
        status, message, code = error.status, error.reason, "not-found" if error.status == 404 else "invalid"
        if (match := _NONE_OF.match(request.path)) and request.method == "GET":
            status, message, code = 404, f"No such {match[1]}: {match[2]}", "not-found"
        elif match := _NOT_YET.match(request.path):
            status, message, code = 501, f"atoll does not have {match[1]} yet", "unsupported"
        elif status == 404:
            message = "page not found"
    except Exception:  # the request's outermost edge
        log.exception("%s %s failed", request.method, request.path)
        status, message = 500, "internal error of the engine: see its log ('atoll system logs')"
    if is_hijacked(request):
        return Hijacked()
    if status == 304:
        return web.Response(status=304)
    response = answer({"message": message, "code": code}, status=status)
    if request.method == "HEAD":
        # An answer to HEAD has no body; ours reads this instead.
        response.headers[ERROR_HEADER] = json.dumps({"message": message, "code": code})
    return response


@web.middleware
async def _check_caller(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Only the engine's user and root; only versions of the API that we speak."""
    if request.transport is None:
        raise ClientGone
    uid = peer_uid(request.transport)
    if uid not in (0, os.geteuid()):
        log.warning("refused user %d", uid)
        return answer({"message": f"user {uid} may not use this engine: it belongs to user {os.geteuid()}"}, 403)
    if match := _VERSION.match(request.path):
        asked = int(match[1]), int(match[2])
        if asked > _numbers(system.API_VERSION):
            newest = system.API_VERSION
            message = f"client version {match[1]}.{match[2]} is too new. Maximum supported API version is {newest}"
            return answer({"message": message}, 400)
        if asked < _numbers(system.OLDEST_API_VERSION):
            oldest = system.OLDEST_API_VERSION
            message = (
                f"client version {match[1]}.{match[2]} is too old. Minimum supported API version is {oldest}, "
                "please upgrade your client to a newer version"
            )
            return answer({"message": message}, 400)
    return await handler(request)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Api-Version"] = system.API_VERSION
    response.headers["Docker-Experimental"] = "false"
    response.headers["Ostype"] = "linux"
    response.headers["Server"] = f"Atoll/{__version__} (linux)"


def _numbers(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)
