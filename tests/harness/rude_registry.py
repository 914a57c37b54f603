"""A registry whose every answer a test may replace: a real server on loopback, with the image `reef:1`.

Fixtures that serve it are in `tests/unit/conftest.py`.
"""

import asyncio
import gzip
import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web
from aiohttp.test_utils import TestServer

from atoll.image import ContentStore, Patience, Registries
from atoll.store.database import Database
from harness.archives import directory, file, tar

LAYER = gzip.compress(tar([directory("bin"), file("bin/sh", bytes(range(256)) * 5000)]), mtime=0)
DIFF_ID = "sha256:" + hashlib.sha256(gzip.decompress(LAYER)).hexdigest()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"

_MIDDLE = 2 << 20
"""Where `Ranged` stops."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def digest(data: bytes) -> str:
    """The digest of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(media_type: str, data: bytes) -> dict[str, object]:
    """The descriptor of `data`."""
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def config_of(diff_id: str) -> bytes:
    """The configuration of an image of one layer."""
    rootfs = {"type": "layers", "diff_ids": [diff_id]}
    return json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()


def manifest_of(config: bytes, layer: bytes) -> bytes:
    """The manifest of an image of one layer."""
    described = {"config": describe(CONFIG_TYPE, config), "layers": [describe(LAYER_TYPE, layer)]}
    return json.dumps({"schemaVersion": 2, **described}).encode()


CONFIG = config_of(DIFF_ID)
MANIFEST = manifest_of(CONFIG, LAYER)


class RudeRegistry:
    """Polite until a test puts a handler into `replaced`, by the beginning of a path."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        """Paths."""
        self.calls: list[str] = []
        """Methods and paths."""
        self.replaced: dict[str, Handler] = {}
        self.blobs = {digest(data): data for data in (CONFIG, LAYER)}
        self.manifests = {"1": MANIFEST, digest(MANIFEST): MANIFEST}
        self.uploads: dict[str, bytearray] = {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What a test says, else the usual."""
        self.requests.append(request.path)
        self.calls.append(f"{request.method} {request.path}")
        for prefix, handler in self.replaced.items():
            if request.path.startswith(prefix):
                return await handler(request)
        return await self.usual(request)

    async def usual(self, request: web.Request) -> web.StreamResponse:
        """What the distribution-spec says."""
        *_, kind, name = request.path.split("/")
        if "/blobs/uploads/" in request.path:
            return await self._upload(request, name)
        if request.method == "PUT" and kind == "manifests":
            self.manifests[name] = await request.read()
            return web.Response(status=201, headers={"Docker-Content-Digest": digest(self.manifests[name])})
        if kind == "manifests" and name in self.manifests:
            return web.Response(body=self.manifests[name], content_type=MANIFEST_TYPE)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.json_response({"errors": [{"code": "NAME_UNKNOWN"}]}, status=404)

    async def _upload(self, request: web.Request, name: str) -> web.StreamResponse:
        if request.method == "POST":
            name = uuid.uuid4().hex
            self.uploads[name] = bytearray()
        elif name not in self.uploads:
            return web.json_response({"errors": [{"code": "BLOB_UPLOAD_UNKNOWN"}]}, status=404)
        arrived = self.uploads[name]
        if request.method in ("PATCH", "PUT"):
            begin = request.headers.get("Content-Range", f"{len(arrived)}-").partition("-")[0]
            if int(begin) != len(arrived):
                return web.Response(status=416)
            async for chunk in request.content.iter_chunked(1 << 16):
                arrived += chunk
        headers = {"Location": f"/v2/reef/blobs/uploads/{name}?state={len(arrived)}"}
        if arrived:
            headers["Range"] = f"0-{len(arrived) - 1}"
        if request.method == "PUT":
            wanted = request.query["digest"]
            if digest(bytes(arrived)) != wanted:
                return web.json_response({"errors": [{"code": "DIGEST_INVALID"}]}, status=400)
            self.blobs[wanted] = bytes(self.uploads.pop(name))
            return web.Response(status=201)
        return web.Response(status=204 if request.method == "GET" else 202, headers=headers)


class Ranged:
    """Gives a blob from where it is asked for, and stops in the middle, if it `stalls`, until it is `released`."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.begun: list[int] = []
        self.stalls = True
        self.trickles = False
        self.reached = asyncio.Event()
        self.released = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """What comes instead of the blob; `begun` has where each answer began."""
        asked = request.headers.get("Range", "bytes=0-")
        begin = int(asked.removeprefix("bytes=").removesuffix("-"))
        self.begun.append(begin)
        headers = {"Content-Range": f"bytes {begin}-{len(self.data) - 1}/{len(self.data)}"}
        response = web.StreamResponse(status=206 if begin else 200, headers=headers if begin else {})
        response.content_length = len(self.data) - begin
        await response.prepare(request)
        at = begin
        if self.stalls:
            at = _MIDDLE
            await response.write(self.data[begin:at])
            self.reached.set()
            # One byte now and then, so that there is progress to be seen.
            while not self.released.is_set() and at < len(self.data) - 1:
                if self.trickles:
                    await response.write(self.data[at : at + 1])
                    at += 1
                await asyncio.sleep(0.01)
        await response.write(self.data[at:])
        return response


async def serve(handler: Handler, stack: AsyncExitStack) -> str:
    """Serve `handler` for as long as `stack` is open; the address."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    server = await stack.enter_async_context(TestServer(app))
    return f"{server.host}:{server.port}"


def open_store(
    root: Path, *, silence_s: float = 5.0, mirrors: dict[str, tuple[str, ...]] | None = None
) -> ContentStore:
    """A store below `root` that does not wait between two tries, and for a silent registry only so long."""
    patience = Patience(silence_s=silence_s, most_pause_s=0.0)
    registries = Registries(patience=patience, mirrors=mirrors or {}, certificates=(root / "certs.d",))
    return ContentStore(root / "content", Database(root / "atoll.db"), registries=registries)


def left_behind(root: Path) -> list[Path]:
    """What lies in a store, other than the beginnings of blobs that the next pull goes on with."""
    files = [found for found in (root / "content").rglob("*") if found.is_file()]
    return [file for file in files if file.parent.name != "partial"]
