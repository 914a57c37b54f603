"""Pulling from registries that are rude, broken or hostile; they are real servers on loopback."""

import asyncio
import gzip
import json
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from harness.archives import file, tar
from harness.rude_registry import (
    CONFIG,
    DIFF_ID,
    LAYER,
    LAYER_TYPE,
    MANIFEST,
    MANIFEST_TYPE,
    Handler,
    RudeRegistry,
    describe,
    digest,
    left_behind,
    open_store,
    serve,
)

from atoll.errors import AtollError, InvalidRequest, NotFound, RegistryFailed, Unsupported
from atoll.image import ContentStore, Registries, repository_tags


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


async def test_a_second_pull_fetches_no_layer(store: ContentStore, registry: RudeRegistry, host: str) -> None:
    first = await store.pull(f"{host}/reef:1")
    registry.requests.clear()
    lines: list[dict[str, object]] = []
    assert await store.pull(f"{host}/reef:1", report=lines.append) == first
    assert not any(path.endswith(digest(LAYER)) for path in registry.requests)
    assert "Already exists" in [line["status"] for line in lines]
    assert lines[-1]["status"] == f"Status: Image is up to date for {host}/reef:1"


async def test_a_digest_names_exactly_one_image(store: ContentStore, registry: RudeRegistry, host: str) -> None:
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


def manifest(text: str) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(body=text.encode(), content_type=MANIFEST_TYPE)

    return handler


MANIFESTS = "/v2/reef/manifests/"
LAYERS = f"/v2/reef/blobs/{digest(LAYER)}"
CONFIGS = f"/v2/reef/blobs/{digest(CONFIG)}"
FOREIGN = MANIFEST.decode().replace(LAYER_TYPE, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
WRONG_SIZE = json.dumps({**json.loads(MANIFEST), "layers": [{**describe(LAYER_TYPE, LAYER), "size": len(LAYER) + 1}]})
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
        (MANIFESTS, text('{"schemaVersion": 1, "name": "reef"}'), Unsupported, "schema 1"),
        (MANIFESTS, manifest(FOREIGN), Unsupported, "foreign layer"),
        (MANIFESTS, text(json.dumps({**json.loads(MANIFEST), "manifests": []})), RegistryFailed, "either"),
        (MANIFESTS, manifest(WRONG_SIZE), RegistryFailed, "failed again and again"),
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
    registry: RudeRegistry,
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
    store: ContentStore,
    registry: RudeRegistry,
    host: str,
    changes: dict[str, object],
    error: type[AtollError],
    why: str,
) -> None:
    config = json.dumps({**json.loads(CONFIG), **changes}).encode()
    registry.blobs[digest(config)] = config
    manifest = {**json.loads(MANIFEST), "config": describe("application/vnd.oci.image.config.v1+json", config)}
    registry.manifests["1"] = json.dumps(manifest).encode()
    with pytest.raises(error, match=why):
        await store.pull(f"{host}/reef:1")


async def test_an_index_is_resolved_to_our_platform_or_the_one_asked_for(
    store: ContentStore, registry: RudeRegistry, host: str
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


async def test_a_token_is_fetched_where_one_is_asked_for(
    store: ContentStore, registry: RudeRegistry, host: str
) -> None:
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
    store: ContentStore, registry: RudeRegistry, host: str
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
    store: ContentStore, registry: RudeRegistry, host: str
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


async def test_a_busy_registry_is_asked_again(store: ContentStore, registry: RudeRegistry, host: str) -> None:
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
    store: ContentStore, registry: RudeRegistry, host: str, tmp_path: Path
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
    store: ContentStore, registry: RudeRegistry, host: str
) -> None:
    images = await asyncio.gather(*(store.pull(f"{host}/reef:1") for _ in range(4)))
    assert len({image.id for image in images}) == 1
    assert registry.requests.count(LAYERS) == 1


async def test_a_registry_that_is_not_there_cannot_be_reached(store: ContentStore) -> None:
    async with AsyncExitStack() as stack:
        gone = await serve(RudeRegistry().answer, stack)
    with pytest.raises(RegistryFailed, match="cannot be reached"):
        await store.pull(f"{gone}/reef:1")


@pytest.mark.parametrize("path", [MANIFESTS, CONFIGS, LAYERS])
async def test_a_registry_that_says_nothing_is_given_up(
    registry: RudeRegistry, host: str, tmp_path: Path, path: str
) -> None:
    is_over = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        await is_over.wait()
        return web.Response()

    registry.replaced[path] = hang
    with pytest.raises(RegistryFailed, match=r"it said nothing for 0.2 s"):
        await open_store(tmp_path, silence_s=0.2).pull(f"{host}/reef:1")
    is_over.set()
    assert not left_behind(tmp_path)


async def test_every_tag_of_a_repository_is_found_page_by_page(registry: RudeRegistry, host: str) -> None:
    async def page(request: web.Request) -> web.StreamResponse:
        last = request.query.get("last")
        headers = {} if last else {"Link": '</v2/reef/tags/list?last=1&n=1>; rel="next"'}
        return web.json_response({"name": "reef", "tags": ["2"] if last else ["1"]}, headers=headers)

    registry.replaced["/v2/reef/tags/list"] = page
    assert await repository_tags(f"{host}/reef", Registries()) == ["1", "2"]
