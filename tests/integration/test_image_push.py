"""Pushing to Debian's `docker-registry` on loopback, and what `skopeo` finds there."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from harness.archives import directory, file, tar
from harness.docker_registry import docker_registry
from harness.skopeo import skopeo

from atoll.errors import InvalidRequest, NotFound
from atoll.image import ContentStore
from atoll.store.database import Database

NOISE = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(300_000))
"""Nine megabytes that do not pack: more than goes in one request."""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry of this module's own."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content", Database(tmp_path / "atoll.db"))


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(data), 1 << 20):
        yield data[begin : begin + (1 << 20)]


def raw_manifest(name: str) -> bytes:
    return skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{name}").encode()


async def pushed(store: ContentStore, name: str) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    await store.push(name, lines.append)
    return lines


def statuses(lines: list[dict[str, object]]) -> list[object]:
    return [line.get("status") for line in lines]


@pytest.mark.parametrize("flags", [[], ["--format=v2s2"], ["--dest-compress", "--dest-compress-format=zstd"]])
async def test_a_pulled_image_is_pushed_with_the_manifest_that_it_had(
    store: ContentStore, registry: str, flags: list[str]
) -> None:
    first, origin, copy = (f"{registry}/{name}{len(flags)}:1" for name in ("first", "origin", "copy"))
    await store.import_(pieces(tar([directory("bin"), file("bin/sh", NOISE)])), first)
    await store.push(first)
    await store.remove(first)
    insecure = ("--src-tls-verify=false", "--dest-tls-verify=false")
    skopeo("copy", *insecure, *flags, f"docker://{first}", f"docker://{origin}")
    image = await store.pull(origin)
    await store.tag(image.id, copy)
    await store.push(copy)
    assert raw_manifest(copy) == raw_manifest(origin)
    assert f"{copy.removesuffix(':1')}@" in "".join((await store.get(copy)).repo_digests)


async def test_an_imported_image_is_packed_and_keeps_its_digest(
    store: ContentStore, registry: str, tmp_path: Path
) -> None:
    data = tar([directory("bin"), file("bin/zeros", bytes(20 << 20)), file("bin/noise", NOISE)])
    image = await store.import_(pieces(data), f"{registry}/imported:1", ['CMD ["sh"]'])
    lines = await pushed(store, f"{registry}/imported:1")
    short = image.layers[0].diff_id[7:19]
    assert lines[0] == {"status": f"The push refers to repository [{registry}/imported]"}
    assert lines[1] == {"status": "Preparing", "progressDetail": {}, "id": short}
    assert {"status": "Pushed", "progressDetail": {}, "id": short} in lines
    manifest = raw_manifest(f"{registry}/imported:1")
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    assert lines[-2] == {"status": f"1: digest: {digest} size: {len(manifest)}"}
    assert lines[-1]["aux"] == {"Tag": "1", "Digest": digest, "Size": len(manifest)}
    (layer,) = json.loads(manifest)["layers"]
    assert layer["mediaType"].endswith("tar+gzip")
    assert len(NOISE) < layer["size"] < len(data) / 2
    assert image.id == json.loads(manifest)["config"]["digest"]
    # A second time nothing is sent, and nothing changes.
    again = await pushed(store, f"{registry}/imported:1")
    assert statuses(again)[-3:-1] == ["Layer already exists", f"1: digest: {digest} size: {len(manifest)}"]
    # What skopeo fetches is what was imported.
    skopeo("copy", "--src-tls-verify=false", f"docker://{registry}/imported:1", f"dir:{tmp_path}/fetched")
    assert (tmp_path / "fetched" / layer["digest"][7:]).stat().st_size == layer["size"]
    await store.remove(image.id, force=True)
    assert (await store.pull(f"{registry}/imported:1")).id == image.id


async def test_a_layer_that_another_repository_has_is_mounted_from_there(store: ContentStore, registry: str) -> None:
    await store.import_(pieces(tar([file("mounted", NOISE[:100_000])])), f"{registry}/here:1")
    assert "Pushed" in statuses(await pushed(store, f"{registry}/here:1"))
    await store.tag(f"{registry}/here:1", f"{registry}/there:1")
    assert "Mounted from here" in statuses(await pushed(store, f"{registry}/there:1"))
    assert raw_manifest(f"{registry}/here:1") == raw_manifest(f"{registry}/there:1")


async def test_a_repository_without_a_tag_stands_for_all_of_its_tags(store: ContentStore, registry: str) -> None:
    await store.import_(pieces(tar([file("all", b"1")])), f"{registry}/all:1")
    await store.tag(f"{registry}/all:1", f"{registry}/all:2")
    lines = await pushed(store, f"{registry}/all")
    assert [line["aux"]["Tag"] for line in lines if isinstance(line.get("aux"), dict)] == ["1", "2"]  # type: ignore[index]
    tags = json.loads(skopeo("list-tags", "--tls-verify=false", f"docker://{registry}/all"))
    assert sorted(tags["Tags"]) == ["1", "2"]


async def test_what_is_not_here_or_names_a_digest_is_not_pushed(store: ContentStore, registry: str) -> None:
    with pytest.raises(NotFound, match="does not exist locally with the tag"):
        await store.push(f"{registry}/nothing:1")
    with pytest.raises(InvalidRequest, match="cannot push a digest reference"):
        await store.push(f"{registry}/nothing@sha256:{'0' * 64}")
