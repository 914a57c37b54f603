"""Pulling from registries that are rude, broken or hostile; they are real servers on loopback."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness.archives import directory, file, tar

from atoll.errors import AtollError, InvalidRequest, NotFound, RegistryFailed
from atoll.image import ContentStore, Patience, Registries
from atoll.store.database import Database

LAYER = gzip.compress(tar([directory("bin"), file("bin/sh", bytes(range(256)) * 5000)]), mtime=0)
DIFF_ID = "sha256:" + hashlib.sha256(gzip.decompress(LAYER)).hexdigest()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


CONFIG = json.dumps(
    {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [DIFF_ID]}}
).encode()
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MANIFEST = json.dumps(
    {
        "schemaVersion": 2,
        "config": describe("application/vnd.oci.image.config.v1+json", CONFIG),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar+gzip", LAYER)],
    }
).encode()


class Registry:
    """A registry of one image, `reef:1`, whose answers a test may replace."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.replaced: dict[str, Handler] = {}
        self.blobs = {digest(data): data for data in (CONFIG, LAYER)}
        self.manifests = {"1": MANIFEST, digest(MANIFEST): MANIFEST}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request.path)
        for prefix, handler in self.replaced.items():
            if request.path.startswith(prefix):
                return await handler(request)
        return await self.usual(request)

    async def usual(self, request: web.Request) -> web.StreamResponse:
        *_, kind, name = request.path.split("/")
        if kind == "manifests" and name in self.manifests:
            return web.Response(body=self.manifests[name], content_type=MANIFEST_TYPE)
        if kind == "blobs" and name in self.blobs:
            return web.Response(body=self.blobs[name])
        return web.json_response({"errors": [{"code": "NAME_UNKNOWN"}]}, status=404)


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def host(registry: Registry) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        yield await serve(registry.answer, stack)


async def serve(handler: Handler, stack: AsyncExitStack) -> str:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    server = await stack.enter_async_context(TestServer(app))
    return f"{server.host}:{server.port}"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return open_store(tmp_path)


def open_store(root: Path, **about: object) -> ContentStore:
    """A store for which nobody waits between two tries, and not long for a registry that is silent."""
    registries = Registries(patience=Patience(silence_s=1.0, most_pause_s=0.0), **about)  # type: ignore[arg-type]
    return ContentStore(root / "content", Database(root / "atoll.db"), registries=registries)


def left_behind(root: Path) -> list[Path]:
    """What lies in a store, other than the beginnings of blobs that the next pull goes on with."""
    files = [found for found in (root / "content").rglob("*") if found.is_file()]
    return [file for file in files if file.parent.name != "partial"]


async def test_an_image_is_pulled_with_dockers_progress(store: ContentStore, host: str) -> None:
    lines: list[dict[str, object]] = []
    image = await store.pull(f"{host}/reef:1", report=lines.append)
    assert image.id == digest(CONFIG)
    assert image.repo_tags == (f"{host}/reef:1",)
    assert image.repo_digests == (f"{host}/reef@{digest(MANIFEST)}",)
    assert [layer.diff_id for layer in image.layers] == [DIFF_ID]
    short = digest(LAYER)[7:19]
    assert lines[0] == {"status": "Pulling from reef", "id": "1"}
    statuses = [line["status"] for line in lines if line.get("id") == short]
    assert statuses[:2] == ["Pulling fs layer", "Downloading"]
    assert statuses[-4:] == ["Verifying Checksum", "Download complete", "Extracting", "Pull complete"]
    assert lines[-2:] == [
        {"status": f"Digest: {digest(MANIFEST)}"},
        {"status": f"Status: Downloaded newer image for {host}/reef:1"},
    ]


async def test_a_second_pull_fetches_no_layer(store: ContentStore, registry: Registry, host: str) -> None:
    first = await store.pull(f"{host}/reef:1")
    registry.requests.clear()
    lines: list[dict[str, object]] = []
    assert await store.pull(f"{host}/reef:1", report=lines.append) == first
    assert not any(path.endswith(digest(LAYER)) for path in registry.requests)
    assert "Already exists" in [line["status"] for line in lines]
    assert lines[-1]["status"] == f"Status: Image is up to date for {host}/reef:1"


async def test_a_digest_names_exactly_one_image(store: ContentStore, registry: Registry, host: str) -> None:
    name = f"{host}/reef@{digest(MANIFEST)}"
    image = await store.pull(name)
    assert image.repo_tags == ()
    assert (await store.get(name)).id == image.id
    assert await store.remove(name) == [{"Untagged": name}, {"Deleted": image.id}]
    registry.manifests[digest(MANIFEST)] = MANIFEST + b" "
    with pytest.raises(RegistryFailed, match="has the digest"):
        await store.pull(name)


async def test_removing_the_tag_takes_the_digest_along(store: ContentStore, host: str) -> None:
    image = await store.pull(f"{host}/reef:1")
    await store.tag(image.id, "local:1")
    gone = [{"Untagged": f"{host}/reef:1"}, {"Untagged": f"{host}/reef@{digest(MANIFEST)}"}]
    assert await store.remove(f"{host}/reef:1") == gone
    assert (await store.get("local:1")).repo_digests == ()


def text(body: str, status: int = 200, **headers: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body, status=status, headers=headers, content_type="text/html")

    return handler


def body(data: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=data)

    return handler


MANIFESTS = "/v2/reef/manifests/"
LAYERS = f"/v2/reef/blobs/{digest(LAYER)}"
CONFIGS = f"/v2/reef/blobs/{digest(CONFIG)}"
BOMB = gzip.compress(tar([file("x", bytes(100_000_000))]))


@pytest.mark.parametrize(
    ("path", "handler", "error", "why"),
    [
        (MANIFESTS, text("<html>"), RegistryFailed, "manifest is malformed"),
        (MANIFESTS, text("x" * 9_000_000), RegistryFailed, "larger than"),
        (MANIFESTS, text("", 404), NotFound, "reef:1 not found"),
        (MANIFESTS, text("", 403), NotFound, "pull access denied"),
        (MANIFESTS, text("", 401), RegistryFailed, "without saying how"),
        (MANIFESTS, text("", 401, **{"WWW-Authenticate": "Basic realm=x"}), NotFound, "user name and a password"),
        (MANIFESTS, text("", 401, **{"WWW-Authenticate": 'Bearer realm="ftp://x"'}), RegistryFailed, "do not go"),
        (MANIFESTS, text("", 401, **{"WWW-Authenticate": "Bearer"}), RegistryFailed, "without saying how"),
        (MANIFESTS, text("", 500), RegistryFailed, "failed again and again"),
        (MANIFESTS, text("", 418), RegistryFailed, "answered 418"),
        (MANIFESTS, text("", 302, Location="/v2/reef/manifests/1"), RegistryFailed, "more than 5 times"),
        (MANIFESTS, text("", 302, Location="file:///etc/passwd"), RegistryFailed, "do not follow"),
        (MANIFESTS, text("", 302), RegistryFailed, "do not follow"),
        (CONFIGS, text("{}"), RegistryFailed, "has the digest"),
        (CONFIGS, text("", 404), NotFound, "not found"),
        (LAYERS, body(LAYER[:-1]), RegistryFailed, "failed again and again"),
        (LAYERS, body(LAYER + b"x"), RegistryFailed, "larger than"),
        (LAYERS, body(b"x" * len(LAYER)), InvalidRequest, "not what it claims"),
        (LAYERS, body(LAYER[:50] + bytes([LAYER[50] ^ 1]) + LAYER[51:]), InvalidRequest, "not what it claims"),
        (LAYERS, text("", 404), NotFound, "not found"),
    ],
)
async def test_a_bad_answer_is_one_clear_error_and_leaves_nothing(
    store: ContentStore,
    registry: Registry,
    host: str,
    tmp_path: Path,
    path: str,
    handler: Handler,
    error: type[AtollError],
    why: str,
) -> None:
    registry.replaced[path] = handler
    with pytest.raises(error, match=why):
        await store.pull(f"{host}/reef:1")
    assert not left_behind(tmp_path)


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"architecture": "arm64"}, NotFound, "for linux/arm64 and not for linux/amd64"),
        ({"rootfs": {"type": "layers", "diff_ids": []}}, RegistryFailed, "names 0 layers"),
        ({"rootfs": {"type": "layers", "diff_ids": [digest(b"")]}}, InvalidRequest, "not what the image says"),
        ({"rootfs": {"type": "other"}}, RegistryFailed, "rootfs"),
    ],
)
async def test_a_configuration_that_does_not_fit_is_refused(
    store: ContentStore, registry: Registry, host: str, changes: dict[str, object], error: type[AtollError], why: str
) -> None:
    config = json.dumps({**json.loads(CONFIG), **changes}).encode()
    registry.blobs[digest(config)] = config
    manifest = {**json.loads(MANIFEST), "config": describe("application/vnd.oci.image.config.v1+json", config)}
    registry.manifests["1"] = json.dumps(manifest).encode()
    with pytest.raises(error, match=why):
        await store.pull(f"{host}/reef:1")


async def test_an_index_is_resolved_to_our_platform_or_the_one_asked_for(
    store: ContentStore, registry: Registry, host: str
) -> None:
    arm = {**json.loads(CONFIG), "architecture": "arm64"}
    arm_config = json.dumps(arm).encode()
    arm_manifest = json.dumps(
        {**json.loads(MANIFEST), "config": describe("application/vnd.oci.image.config.v1+json", arm_config)}
    ).encode()
    index = json.dumps(
        {
            "schemaVersion": 2,
            "manifests": [
                {**describe(MANIFEST_TYPE, data), "platform": {"os": "linux", "architecture": architecture}}
                for data, architecture in ((arm_manifest, "arm64"), (MANIFEST, "amd64"))
            ],
        }
    ).encode()
    registry.blobs[digest(arm_config)] = arm_config
    registry.manifests |= {digest(arm_manifest): arm_manifest}

    async def give_index(request: web.Request) -> web.StreamResponse:
        return web.Response(body=index, content_type="application/vnd.oci.image.index.v1+json")

    registry.replaced["/v2/reef/manifests/1"] = give_index
    image = await store.pull(f"{host}/reef:1")
    assert image.id == digest(CONFIG)
    assert image.repo_digests == (f"{host}/reef@{digest(index)}",)
    assert (await store.pull(f"{host}/reef:1", "linux/arm64")).id == digest(arm_config)
    with pytest.raises(NotFound, match="it has linux/amd64, linux/arm64"):
        await store.pull(f"{host}/reef:1", "linux/s390x")


async def test_a_token_is_fetched_where_one_is_asked_for(store: ContentStore, registry: Registry, host: str) -> None:
    tokens = 0

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer coral":
            return await registry.usual(request)
        challenge = f'Bearer realm="http://{host}/token",service="reef service",scope="repository:reef:pull"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(request: web.Request) -> web.StreamResponse:
        nonlocal tokens
        tokens += 1
        assert dict(request.query) == {"service": "reef service", "scope": "repository:reef:pull"}
        return web.json_response({"token": "coral", "expires_in": 300})

    registry.replaced |= {"/v2/": guarded, "/token": token}
    assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)
    assert tokens == 1


async def test_a_token_never_goes_to_where_a_registry_redirects(
    store: ContentStore, registry: Registry, host: str
) -> None:
    seen: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=LAYER)

    async with AsyncExitStack() as stack:
        other = await serve(elsewhere, stack)

        async def guarded(request: web.Request) -> web.StreamResponse:
            if request.headers.get("Authorization") != "Bearer coral":
                challenge = f'Bearer realm="http://{host}/token"'
                return web.Response(status=401, headers={"WWW-Authenticate": challenge})
            if request.path == LAYERS:
                return web.Response(status=307, headers={"Location": f"http://{other}/blob"})
            return await registry.usual(request)

        async def token(request: web.Request) -> web.StreamResponse:
            return web.json_response({"access_token": "coral"})

        registry.replaced |= {"/v2/": guarded, "/token": token}
        assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)
    assert seen == [None]


async def test_a_download_that_breaks_goes_on_where_it_stopped(
    store: ContentStore, registry: Registry, host: str
) -> None:
    ranges: list[str | None] = []

    async def breaking(request: web.Request) -> web.StreamResponse:
        asked = request.headers.get("Range")
        ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        response = web.StreamResponse(status=206 if asked else 200)
        response.content_length = len(LAYER) - start
        await response.prepare(request)
        await response.write(LAYER[start : start + len(LAYER) // 3 + 1])
        if start < len(LAYER) // 2:
            assert request.transport is not None
            request.transport.close()
        return response

    registry.replaced[LAYERS] = breaking
    assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)
    assert ranges[0] is None
    assert len(ranges) == 3


async def test_a_busy_registry_is_asked_again(store: ContentStore, registry: Registry, host: str) -> None:
    asked = 0

    async def busy(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        if asked < 3:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return await registry.usual(request)

    registry.replaced["/v2/"] = busy
    assert (await store.pull(f"{host}/reef:1")).id == digest(CONFIG)


async def test_a_cancelled_pull_leaves_nothing(
    store: ContentStore, registry: Registry, host: str, tmp_path: Path
) -> None:
    reached, release = asyncio.Event(), asyncio.Event()

    async def stalling(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = len(LAYER)
        await response.prepare(request)
        await response.write(LAYER[:100])
        reached.set()
        await release.wait()
        return response

    registry.replaced[LAYERS] = stalling
    pulling = asyncio.ensure_future(store.pull(f"{host}/reef:1"))
    await reached.wait()
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    release.set()
    assert not left_behind(tmp_path)


async def test_pulls_of_the_same_image_at_once_fetch_its_layer_once(
    store: ContentStore, registry: Registry, host: str
) -> None:
    images = await asyncio.gather(*(store.pull(f"{host}/reef:1") for _ in range(4)))
    assert len({image.id for image in images}) == 1
    assert registry.requests.count(LAYERS) == 1


async def test_a_registry_that_is_not_there_cannot_be_reached(store: ContentStore) -> None:
    async with AsyncExitStack() as stack:
        gone = await serve(Registry().answer, stack)
    with pytest.raises(RegistryFailed, match="cannot be reached"):
        await store.pull(f"{gone}/reef:1")
