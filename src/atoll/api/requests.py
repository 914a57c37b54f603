"""Reading a request's query as Docker's daemon does, and answering in JSON."""

import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from aiohttp import web

from atoll.api.schemas import decode
from atoll.engine.container import Container
from atoll.engine.engine import Engine
from atoll.errors import InvalidRequest

ENGINE: web.AppKey[Engine] = web.AppKey("engine", Engine)

T = TypeVar("T")

_CHUNK_BYTES = 1 << 20
_TIME = re.compile(r"-?\d+(?:\.\d{1,9})?")


def engine_of(request: web.Request) -> Engine:
    """The engine that is served."""
    return request.app[ENGINE]


def container_of(request: web.Request) -> Container:
    """The container that the path names; raises `NotFound`."""
    return engine_of(request).containers.get(request.match_info["name"])


def answer(value: object, status: int = 200) -> web.Response:
    """`value` as JSON."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


def nothing() -> web.Response:
    """Done, with nothing to say."""
    return web.Response(status=204)


async def body_of(request: web.Request, kind: type[T]) -> T:
    """The body as `kind`, an empty one as `{}`; raises `InvalidRequest`."""
    return decode(await request.read() or b"{}", kind)


async def uploaded(request: web.Request) -> AsyncIterator[bytes]:
    """The body as it comes, however long."""
    async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
        yield chunk


def flag(request: web.Request, name: str, default: bool = False) -> bool:
    """A yes or no: Docker takes anything but nothing, 0, no, false and none for yes."""
    if name not in request.query:
        return default
    return request.query[name].strip().lower() not in ("", "0", "no", "false", "none")


def whole_number(request: web.Request, name: str) -> int | None:
    """A whole number, None when it is not there; raises `InvalidRequest`."""
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(f"invalid value for {name}: '{text}' is not a whole number") from None


def moment_ns(request: web.Request, name: str) -> int | None:
    """A time in nanoseconds since the epoch: seconds with a fraction, or RFC 3339; None when it is not there."""
    text = request.query.get(name, "")
    if not text:
        return None
    if _TIME.fullmatch(text):
        seconds, _, fraction = text.partition(".")
        return int(seconds) * 1_000_000_000 + int(fraction.ljust(9, "0") or 0)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f'invalid value for "{name}": {text} is not a time') from None
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1_000_000_000)
