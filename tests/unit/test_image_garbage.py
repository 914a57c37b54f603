"""What is removed while something else is under way: nothing goes that is still needed, and all of the rest does.

And what a host that loses power finds: an image's files are there for good before the catalog names them.
"""

import asyncio
import hashlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from harness.archives import directory, file, tar

from atoll.image import Checked, ContentStore, Finding
from atoll.image.catalog import Catalog
from atoll.store.database import Database

ROOT = tar([directory("bin"), file("bin/sh", b"#!" * 1000)])
UPPER = tar([file("new", b"n")])
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def describe(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}


def image(*layers: bytes) -> tuple[bytes, bytes]:
    """A configuration and a manifest."""
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    described = [describe("layer.v1.tar", layer) for layer in layers]
    document = {"schemaVersion": 2, "config": describe("config.v1+json", config), "layers": described}
    return config, json.dumps(document).encode()


@dataclass
class StallingRegistry:
    """A registry of `lower:1` (one layer) and `whole:1` (two), which stalls before it sends the second layer."""

    is_asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        async with TestServer(app) as server:
            yield f"{server.host}:{server.port}"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        lower, whole = image(ROOT), image(ROOT, UPPER)
        repository, kind, name = ("/" * 4 + request.path).split("/")[-3:]
        if kind == "manifests":
            return web.Response(body=(lower if repository == "lower" else whole)[1], content_type=MANIFEST_TYPE)
        if kind == "blobs":
            if name == digest(UPPER):
                self.is_asked.set()
                await self.may_answer.wait()
            return web.Response(body={digest(data): data for data in (lower[0], whole[0], ROOT, UPPER)}[name])
        return web.Response()


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content", Database(tmp_path / "atoll.db"))


async def check(store: ContentStore) -> Checked:
    async def report(finding: Finding) -> None:
        raise AssertionError(finding)

    return await store.upkeep.check(report, lambda image_id: False, repair=False)


def files(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "content").rglob("*") if path.is_file()]


async def saved(store: ContentStore, name: str) -> bytes:
    return b"".join([chunk async for chunk in store.save([name])])


async def test_a_pull_keeps_what_it_found_here_although_its_image_is_removed_meanwhile(
    store: ContentStore, tmp_path: Path
) -> None:
    registry = StallingRegistry()
    async with registry.serving() as host:
        await store.pull(f"{host}/lower:1")
        pulling = asyncio.create_task(store.pull(f"{host}/whole:1"))
        await registry.is_asked.wait()
        await store.remove(f"{host}/lower:1")
        assert await store.list() == []
        registry.may_answer.set()
        pulled = await pulling
        await store.image_disk(pulled)
        assert (await check(store)).images == 1
        assert await saved(store, pulled.id)
        await store.remove(pulled.id, force=True)
    assert files(tmp_path) == []


async def test_a_pull_that_fails_takes_nothing_from_others(store: ContentStore, tmp_path: Path) -> None:
    registry = StallingRegistry()
    async with registry.serving() as host:
        lower = await store.pull(f"{host}/lower:1")
        pulling = asyncio.create_task(store.pull(f"{host}/whole:1"))
        await registry.is_asked.wait()
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
    assert [image.id for image in await store.list()] == [lower.id]
    assert (await check(store)).blobs == 3


async def test_a_pull_brings_back_the_blob_of_an_image_that_a_check_could_not_remove(
    store: ContentStore, tmp_path: Path
) -> None:
    findings: list[Finding] = []

    async def report(finding: Finding) -> None:
        findings.append(finding)

    async with StallingRegistry().serving() as host:
        pulled = await store.pull(f"{host}/lower:1")
        assert await store.upkeep.take_checksum()
        (tmp_path / "content/blobs/sha256" / digest(ROOT)[7:]).write_bytes(b"damaged")
        assert (await store.upkeep.check(report, lambda image_id: True, repair=True)).left == 1
        assert [finding.kind for finding in findings] == ["blob", "image"]
        assert await store.pull(f"{host}/lower:1") == pulled
    assert (await check(store)).found == 0


async def test_disks_are_composed_while_other_images_of_the_same_layers_go(store: ContentStore) -> None:
    async def load(*layers: bytes, tag: str) -> None:
        config, _ = image(*layers)
        names = [f"{number}.tar" for number in range(len(layers))]
        entry = json.dumps([{"Config": "config.json", "RepoTags": [tag], "Layers": names}]).encode()
        members = [file(name, layer) for name, layer in zip(names, layers, strict=True)]

        async def chunks() -> AsyncIterator[bytes]:
            yield tar([*members, file("config.json", config), file("manifest.json", entry)])

        await store.load(chunks())

    await load(ROOT, UPPER, tag="kept:1")
    kept = await store.get("kept:1")
    for _ in range(10):
        await load(UPPER, ROOT, tag="gone:1")
        await asyncio.gather(
            store.image_disk(kept), store.image_disk(await store.get("gone:1")), store.remove("gone:1")
        )
        disk = await store.image_disk(kept)
        assert disk.path.exists()
        assert all(path.exists() for path in disk.files.values())
    assert (await check(store)).disks == 1


class Disk:
    """What would be left if the power went: of names and of bytes, that which was synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written: set[str] = set()
        self._named: dict[str, str] = {}
        self.durable: set[str] = set()
        fsync, rename, link = os.fsync, Path.rename, Path.hardlink_to

        def sync(descriptor: int) -> None:
            fsync(descriptor)
            path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
            self._written.add(path)
            self.durable |= {name for name, directory in self._named.items() if directory == path}

        def name(path: Path, target: Path) -> Path:
            self._name(path, target)
            return rename(path, target)

        def name_as_well(path: Path, target: Path) -> None:
            self._name(target, path)
            link(path, target)

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(Path, "rename", name)
        monkeypatch.setattr(Path, "hardlink_to", name_as_well)

    def _name(self, path: Path, target: Path) -> None:
        assert str(path) in self._written, f"{target.name} got its name before its bytes were on the disk"
        self._named[str(target)] = str(target.parent)


@pytest.mark.parametrize("how", ["pull", "load", "import"])
async def test_a_power_cut_finds_no_image_without_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    disk = Disk(monkeypatch)
    store = ContentStore(tmp_path / "content", Database(tmp_path / "atoll.db"))
    missing: list[set[str]] = []
    add = Catalog.add

    def look(catalog: Catalog, *arguments: object, **named: object) -> None:
        missing.append({str(path) for path in files(tmp_path)} - disk.durable)
        add(catalog, *arguments, **named)  # type: ignore[arg-type]  # handed on as they are

    monkeypatch.setattr(Catalog, "add", look)
    registry = StallingRegistry()
    registry.may_answer.set()
    config, _ = image(ROOT)
    entry = json.dumps([{"Config": "config.json", "RepoTags": ["reef:1"], "Layers": ["0.tar"]}]).encode()
    archive = tar([file("0.tar", ROOT), file("config.json", config), file("manifest.json", entry)])

    async def chunks() -> AsyncIterator[bytes]:
        yield archive if how == "load" else ROOT

    if how == "pull":
        async with registry.serving() as host:
            await store.pull(f"{host}/whole:1")
    else:
        await (store.load(chunks()) if how == "load" else store.import_(chunks(), "reef"))
    assert missing == [set()]
