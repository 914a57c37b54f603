"""Routes that move files: `docker cp`, `export`, `diff` and `commit`.

Source: Docker Engine API reference, version 1.47, "Containers" (archive, export, changes) and "Images" (commit).
"""

import asyncio
import base64
import logging
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from atoll.api.requests import answer, container_of, engine_of, flag, uploaded
from atoll.engine.container import Container
from atoll.engine.runtimes import Runtime
from atoll.errors import AtollError, InvalidRequest, NotFound
from atoll.image import Execution
from atoll.model.agent import PathStat

log = logging.getLogger("atoll.api")

_CHUNK_BYTES = 1 << 20
_GZIP = b"\x1f\x8b"
_GZIP_WINDOW = 31
"""zlib's for a stream with gzip's head."""
_CHANGE_KINDS = {b"C": 0, b"A": 1, b"D": 2}
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799
"""The years 1 and 9999: a guest may say anything."""
STAT_HEADER = "X-Docker-Container-Path-Stat"


async def stat(request: web.Request) -> web.Response:
    """What a path of a container is, in a header."""
    container, path = container_of(request), _path(request)
    async with container.files() as runtime:
        found = await _stat(container, runtime, path)
    return web.Response(headers={STAT_HEADER: _encoded(found)})


async def read(request: web.Request) -> web.StreamResponse:
    """A path of a container, and all below it, as a tar."""
    container, path = container_of(request), _path(request)
    async with container.files() as runtime:
        found = await _stat(container, runtime, path)
        response = await _stream(request, runtime.read_archive(path), {STAT_HEADER: _encoded(found)})
    container.publish("archive-path")
    return response


async def write(request: web.Request) -> web.Response:
    """Extract a tar, compressed by gzip or not, into a directory of a container."""
    container, path = container_of(request), _path(request)
    keeps_kind = flag(request, "noOverwriteDirNonDir")
    async with container.files() as runtime, aclosing(_decompressed(uploaded(request))) as archive:
        try:
            await runtime.write_archive(path, archive, no_overwrite_dir_non_dir=keeps_kind)
        except NotFound:
            raise _no_such_file(container, path) from None
        except InvalidRequest as error:
            if container.record.config.read_only and "read-only" in str(error):
                raise InvalidRequest("container rootfs is marked read-only") from error
            raise
    container.publish("extract-to-dir")
    return web.Response()


async def export(request: web.Request) -> web.StreamResponse:
    """The whole root of a container as a tar, without what is mounted in it."""
    container = container_of(request)
    async with container.files() as runtime:
        response = await _stream(request, runtime.read_root(), {})
    container.publish("export")
    return response


async def changes(request: web.Request) -> web.Response:
    """What a container has changed, added and deleted since its image."""
    async with container_of(request).files() as runtime:
        listed = b"".join([piece async for piece in runtime.changes()])
    rows = [
        {"Path": entry[1:].decode(errors="replace"), "Kind": _CHANGE_KINDS[entry[:1]]}
        for entry in listed.split(b"\0")
        if entry[:1] in _CHANGE_KINDS
    ]
    return answer(rows or None)


async def commit(request: web.Request) -> web.Response:
    """Make an image of a container."""
    engine, query = engine_of(request), request.query
    container = engine.containers.get(query.get("container", ""))
    name = query.get("repo") or None
    if name is not None and query.get("tag"):
        name += f":{query['tag']}"
    image = await engine.images.commit(
        container,
        name=name,
        asked=_execution(await request.read()),
        author=query.get("author", ""),
        comment=query.get("comment", ""),
        changes=query.getall("changes", []),
        freeze=flag(request, "pause", default=True),
    )
    return answer({"Id": image.id}, status=201)


def _path(request: web.Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise InvalidRequest("bad parameter: a path in the container is needed")
    if "\0" in path:
        raise InvalidRequest("bad parameter: a path cannot contain a zero byte")
    return path


async def _stat(container: Container, runtime: Runtime, path: str) -> PathStat:
    try:
        return await runtime.stat_path(path)
    except NotFound:
        raise _no_such_file(container, path) from None


def _no_such_file(container: Container, path: str) -> NotFound:
    return NotFound(f"Could not find the file {path} in container {container.name}")


def _encoded(found: PathStat) -> str:
    moment = datetime.fromtimestamp(min(max(found.mtime_s, _FIRST_S), _LAST_S), UTC).replace(tzinfo=None)
    fraction = f".{found.mtime_ns:09}".rstrip("0") if found.mtime_ns else ""
    text = msgspec.json.encode(
        {
            "name": found.name,
            "size": found.size_bytes,
            "mode": found.mode,
            "mtime": f"{moment.isoformat()}{fraction}Z",
            "linkTarget": found.link_target,
        }
    )
    return base64.b64encode(text).decode()


async def _stream(request: web.Request, archive: AsyncGenerator[bytes], headers: dict[str, str]) -> web.StreamResponse:
    """Send `archive`; what goes wrong before its first byte is an ordinary error, afterwards the connection breaks."""
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar", **headers})
    async with aclosing(archive):
        first = await anext(archive, b"")
        await response.prepare(request)
        try:
            await response.write(first)
            async for piece in archive:
                await response.write(piece)
        except AtollError as error:
            log.warning("%s %s: %s", request.method, request.path, error)
            if request.transport is not None:
                request.transport.abort()
    return response


async def _decompressed(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    unpacker = None
    is_first = True
    async for chunk in chunks:
        if is_first and chunk.startswith(_GZIP):
            unpacker = zlib.decompressobj(_GZIP_WINDOW)
        is_first = False
        if unpacker is None:
            yield chunk
            continue
        while chunk:
            try:
                data = await asyncio.to_thread(unpacker.decompress, chunk, _CHUNK_BYTES)
            except zlib.error as error:
                raise InvalidRequest(f"the archive is damaged: {error}") from error
            yield data
            chunk = unpacker.unconsumed_tail


def _execution(body: bytes) -> Execution:
    """How containers of the new image run, as far as the client says; null is nothing said."""
    try:
        said = msgspec.json.decode(body or b"null", type=dict[str, object] | None) or {}
        given = {name: value for name, value in said.items() if value is not None}
        for name in ("Cmd", "Entrypoint"):
            if isinstance(given.get(name), str):
                given[name] = [given[name]]
        return msgspec.convert(given, Execution)
    except msgspec.MsgspecError as error:
        raise InvalidRequest(f"the request's body is not what it should be: {error}") from error


ROUTES = (
    ("HEAD", "/containers/{name}/archive", stat),
    ("GET", "/containers/{name}/archive", read),
    ("PUT", "/containers/{name}/archive", write),
    ("GET", "/containers/{name}/export", export),
    ("GET", "/containers/{name}/changes", changes),
    ("POST", "/commit", commit),
)
