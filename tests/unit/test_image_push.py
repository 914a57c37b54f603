"""Pushing to registries that are rude, broken or slow; they are real servers on loopback."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from aiohttp import web
from harness.archives import file, tar
from harness.rude_registry import RudeRegistry, digest, open_store

from atoll.errors import AccessDenied, RegistryFailed
from atoll.image import ContentStore, Credentials

NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(200_000))
UPLOADS = "/v2/reef/blobs/uploads/"


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


@pytest.fixture
async def name(store: ContentStore, host: str) -> str:
    """An image that is here: one layer of six megabytes that do not pack, more than goes in one request."""
    await store.import_(pieces(tar([file("noise", NOISE)])), f"{host}/reef:2")
    return f"{host}/reef:2"


def pushed_layer(registry: RudeRegistry) -> bytes:
    return max(registry.blobs.values(), key=len)


async def test_a_push_brings_layers_configuration_and_manifest(
    store: ContentStore, registry: RudeRegistry, name: str
) -> None:
    await store.push(name)
    image = await store.get(name)
    assert image.id in registry.blobs
    assert (await store.pull(name)).id == image.id
    assert [call.split()[0] for call in registry.calls if UPLOADS in call][:3] == ["POST", "PATCH", "PUT"]


@pytest.mark.parametrize("shown", [0, 100_000, 1 << 20])
async def test_an_upload_that_breaks_goes_on_where_the_registry_says(
    store: ContentStore, registry: RudeRegistry, name: str, shown: int
) -> None:
    begun: list[str] = []

    async def breaking(request: web.Request) -> web.StreamResponse:
        if request.method != "PATCH":
            return await registry.usual(request)
        begun.append(request.headers["Content-Range"].partition("-")[0])
        if len(begun) > 2:
            return await registry.usual(request)
        arrived = registry.uploads[request.path.rpartition("/")[2]]
        wanted = len(arrived) + shown
        async for chunk in request.content.iter_chunked(1 << 14):
            arrived += chunk[: wanted - len(arrived)]
            if len(arrived) == wanted:
                break
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)

    registry.replaced[UPLOADS] = breaking
    await store.push(name)
    assert begun == [str(shown * number) for number in range(3)]
    assert (await store.pull(name)).id == (await store.get(name)).id


async def test_an_upload_that_the_registry_forgot_begins_anew(
    store: ContentStore, registry: RudeRegistry, name: str
) -> None:
    forgotten = 0

    async def forgetful(request: web.Request) -> web.StreamResponse:
        nonlocal forgotten
        if request.method == "PATCH" and not forgotten:
            forgotten += 1
            registry.uploads.clear()
            await request.read()
        return await registry.usual(request)

    registry.replaced[UPLOADS] = forgetful
    await store.push(name)
    assert forgotten == 1
    assert len(pushed_layer(registry)) > len(NOISE)


async def test_an_upload_whose_end_got_lost_is_not_sent_twice(
    store: ContentStore, registry: RudeRegistry, name: str
) -> None:
    lost = 0

    async def losing(request: web.Request) -> web.StreamResponse:
        nonlocal lost
        response = await registry.usual(request)
        if request.method == "PUT" and not lost:
            lost += 1
            assert request.transport is not None
            request.transport.abort()
        return response

    registry.replaced[UPLOADS] = losing
    await store.push(name)
    assert lost == 1
    assert sum(call.startswith("PATCH") for call in registry.calls) == 1


@pytest.mark.parametrize(
    "after",
    ["1", format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)],
    ids=["seconds", "date"],
)
async def test_a_busy_registry_is_asked_again(
    store: ContentStore, registry: RudeRegistry, name: str, after: str
) -> None:
    asked: set[tuple[str, str]] = set()

    async def busy(request: web.Request) -> web.StreamResponse:
        call = request.method, request.path
        if call not in asked:
            asked.add(call)
            return web.Response(status=503, headers={"Retry-After": after})
        return await registry.usual(request)

    registry.replaced["/v2/"] = busy
    await store.push(name)
    assert len(pushed_layer(registry)) > len(NOISE)


async def test_a_registry_that_takes_nothing_is_given_up(registry: RudeRegistry, host: str, tmp_path: Path) -> None:
    store = open_store(tmp_path, silence_s=0.3)
    await store.import_(pieces(tar([file("noise", NOISE)])), f"{host}/reef:3")
    is_over = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        if request.method == "PATCH":
            await is_over.wait()
        return await registry.usual(request)

    registry.replaced[UPLOADS] = hang
    with pytest.raises(RegistryFailed, match=r"it said nothing for 0.3 s"):
        await store.push(f"{host}/reef:3")
    is_over.set()
    assert list((tmp_path / "content" / "ingest").iterdir()) == []


async def test_a_push_that_is_denied_says_so_and_leaves_nothing(
    store: ContentStore, registry: RudeRegistry, name: str
) -> None:
    async def denying(request: web.Request) -> web.StreamResponse:
        error = {"code": "DENIED", "message": "requested access to the resource is denied"}
        return web.json_response({"errors": [error]}, status=403)

    registry.replaced["/v2/"] = denying
    with pytest.raises(AccessDenied, match="requested access to the resource is denied") as caught:
        await store.push(name, credentials=Credentials("sailor", "coral"))
    assert "coral" not in str(caught.value)


async def test_a_push_asks_for_a_token_that_may_write(
    store: ContentStore, registry: RudeRegistry, host: str, name: str
) -> None:
    scopes: list[list[str]] = []

    async def guarded(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") == "Bearer coral":
            return await registry.usual(request)
        challenge = f'Bearer realm="http://{host}/token",service="reef"'
        return web.Response(status=401, headers={"WWW-Authenticate": challenge})

    async def token(request: web.Request) -> web.StreamResponse:
        scopes.append(request.query.getall("scope"))
        return web.json_response({"token": "coral"})

    registry.replaced |= {"/v2/": guarded, "/token": token}
    await store.push(name)
    assert scopes == [["repository:reef:pull,push"]]
    assert digest(pushed_layer(registry)) in registry.blobs
