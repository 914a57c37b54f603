"""Downloads that break, that an engine's end cuts off, that several want: each byte is fetched once."""

import asyncio
import gzip
import hashlib
import os
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from aiohttp import web
from harness.archives import file, tar
from harness.rude_registry import (
    LAYER,
    Handler,
    Ranged,
    RudeRegistry,
    config_of,
    digest,
    left_behind,
    manifest_of,
    open_store,
    serve,
)

from atoll.errors import InvalidRequest
from atoll.image import ContentStore

NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(100_000))
BIG = gzip.compress(tar([file("noise", NOISE)]), 1, mtime=0)
BIG_CONFIG = config_of(digest(gzip.decompress(BIG)))
BLOB = f"/v2/reef/blobs/{digest(BIG)}"


@pytest.fixture
def big(registry: RudeRegistry, host: str) -> str:
    """The name of an image whose layer has three megabytes."""
    manifest = manifest_of(BIG_CONFIG, BIG)
    registry.manifests["big"] = manifest
    registry.blobs |= {digest(BIG): BIG, digest(BIG_CONFIG): BIG_CONFIG}
    return f"{host}/reef:big"


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def partial(root: Path) -> Path:
    return root / "content" / "partial" / digest(BIG)[7:]


def has_partial(root: Path, size_bytes: int) -> bool:
    return partial(root).exists() and partial(root).stat().st_size >= size_bytes


async def cut_off(store: ContentStore, name: str, ranged: Ranged, root: Path) -> None:
    """Pull until the middle of the layer has arrived, then cancel."""
    pulling = asyncio.ensure_future(store.pull(name))
    await ranged.reached.wait()
    await until(lambda: has_partial(root, 2 << 20))
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling
    ranged.released.set()
    ranged.stalls = False


async def test_the_next_pull_goes_on_where_the_last_one_was_cut_off(
    store: ContentStore, registry: RudeRegistry, big: str, tmp_path: Path
) -> None:
    ranged = Ranged(BIG)
    registry.replaced[BLOB] = ranged.answer
    await cut_off(store, big, ranged, tmp_path)
    assert not left_behind(tmp_path)
    # As after `kill -9`: another store opens the same directory.
    lines: list[dict[str, object]] = []
    image = await open_store(tmp_path).pull(big, report=lines.append)
    assert image.id == digest(BIG_CONFIG)
    assert ranged.begun == [0, 2 << 20]
    assert not partial(tmp_path).exists()
    shown = [line["progressDetail"] for line in lines if line.get("status") == "Downloading"]
    assert all(detail["current"] > 2 << 20 for detail in shown if isinstance(detail, dict))


async def test_what_was_damaged_meanwhile_is_fetched_anew(
    store: ContentStore, registry: RudeRegistry, big: str, tmp_path: Path
) -> None:
    ranged = Ranged(BIG)
    registry.replaced[BLOB] = ranged.answer
    await cut_off(store, big, ranged, tmp_path)
    with partial(tmp_path).open("r+b") as damaged:
        damaged.seek(1 << 20)
        damaged.write(bytes(4096))
    assert (await store.pull(big)).id == digest(BIG_CONFIG)
    assert ranged.begun == [0, 2 << 20, 0]


async def test_a_registry_that_knows_no_ranges_is_read_from_the_start(
    store: ContentStore, registry: RudeRegistry, big: str, tmp_path: Path
) -> None:
    ranged = Ranged(BIG)
    registry.replaced[BLOB] = ranged.answer
    await cut_off(store, big, ranged, tmp_path)
    del registry.replaced[BLOB]
    assert (await store.pull(big)).id == digest(BIG_CONFIG)


async def test_a_second_pull_follows_the_first_and_takes_over_when_it_is_cancelled(
    store: ContentStore, registry: RudeRegistry, big: str, tmp_path: Path
) -> None:
    ranged = Ranged(BIG)
    registry.replaced[BLOB] = ranged.answer
    first = asyncio.ensure_future(store.pull(big))
    await ranged.reached.wait()
    lines: list[dict[str, object]] = []
    second = asyncio.ensure_future(store.pull(big, report=lines.append))
    await until(lambda: any(line.get("status") == "Pulling fs layer" for line in lines))
    await until(lambda: has_partial(tmp_path, 2 << 20))
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    ranged.stalls = False
    ranged.released.set()
    assert (await second).id == digest(BIG_CONFIG)
    assert ranged.begun == [0, 2 << 20]


async def test_who_follows_a_download_sees_its_progress(store: ContentStore, registry: RudeRegistry, big: str) -> None:
    ranged = Ranged(BIG)
    ranged.trickles = True
    registry.replaced[BLOB] = ranged.answer
    first = asyncio.ensure_future(store.pull(big))
    await ranged.reached.wait()
    lines: list[dict[str, object]] = []
    second = asyncio.ensure_future(store.pull(big, report=lines.append))
    await until(lambda: any(line.get("status") == "Downloading" for line in lines))
    ranged.released.set()
    await asyncio.gather(first, second)
    statuses = [line.get("status") for line in lines]
    assert "Download complete" in statuses
    assert "Pull complete" in statuses
    assert ranged.begun == [0]


async def test_what_nobody_came_back_for_in_a_day_is_swept_out(
    store: ContentStore, registry: RudeRegistry, big: str, tmp_path: Path
) -> None:
    ranged = Ranged(BIG)
    registry.replaced[BLOB] = ranged.answer
    await cut_off(store, big, ranged, tmp_path)
    yesterday = time.time() - 25 * 3600
    os.utime(partial(tmp_path), (yesterday, yesterday))
    open_store(tmp_path)
    assert not partial(tmp_path).exists()


async def test_a_hostile_layer_is_not_kept_for_later(store: ContentStore, registry: RudeRegistry, big: str) -> None:
    async def other(request: web.Request) -> web.StreamResponse:
        return web.Response(body=BIG[:-100] + bytes(100))

    registry.replaced[BLOB] = other
    with pytest.raises(InvalidRequest, match="not what it claims"):
        await store.pull(big)
    del registry.replaced[BLOB]
    assert (await store.pull(big)).id == digest(BIG_CONFIG)


def text(body: str, status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(text=body, status=status)

    return handler


@pytest.mark.parametrize("broken", ["/v2/", BLOB, f"/v2/reef/blobs/{digest(LAYER)}"])
async def test_a_mirror_comes_first_and_the_registry_goes_on_where_it_fails(
    registry: RudeRegistry, host: str, big: str, tmp_path: Path, broken: str
) -> None:
    mirror = RudeRegistry()
    mirror.blobs, mirror.manifests = registry.blobs, registry.manifests
    async with AsyncExitStack() as stack:
        address = await serve(mirror.answer, stack)
        store = open_store(tmp_path, mirrors={host: (f"http://{address}",)})
        mirror.replaced[broken] = text("gone", 404)
        assert (await store.pull(big)).id == digest(BIG_CONFIG)
    assert mirror.requests[0] == "/v2/reef/manifests/big"
    # Only what the mirror could not give came from the registry itself.
    expected = {"/v2/": 3, BLOB: 1}.get(broken, 0)
    assert len(registry.requests) == expected
