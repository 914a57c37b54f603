"""What the store saves: archives that are what they were loaded from, wherever their format allows it."""

import asyncio
import bz2
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from harness.archives import directory, file, tar

from atoll.errors import InvalidRequest, NotFound
from atoll.image import ArchiveFormat, ContentStore
from atoll.store.database import Database

ROOT = tar([directory("bin"), file("bin/sh", b"#!" * 1000), file("etc/reef", b"coral")])
UPPER = tar([file("etc/.wh.reef"), file("new", b"n")])


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return open_store(tmp_path / "first")


def open_store(root: Path) -> ContentStore:
    root.mkdir()
    return ContentStore(root / "content", Database(root / "atoll.db"))


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


async def chunks(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def saved(store: ContentStore, *names: str, kind: ArchiveFormat = ArchiveFormat.BOTH) -> dict[str, bytes]:
    """The files of an archive, by name; it holds no file twice."""
    data = await archive(store, *names, kind=kind)
    with tarfile.open(fileobj=io.BytesIO(data)) as members:
        found = [(member.name, members.extractfile(member)) for member in members if member.isfile()]
        files = {name: content.read() for name, content in found if content is not None}
    assert len(files) == len(found)
    return files


async def archive(store: ContentStore, *names: str, kind: ArchiveFormat = ArchiveFormat.BOTH) -> bytes:
    return b"".join([chunk async for chunk in store.save(names, kind)])


def layout(*layers: bytes, blobs: tuple[bytes, ...], name: str = "reef:1", spaces: str = "  ") -> bytes:
    """An OCI layout whose manifest is written as nobody else would write it."""
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs, "x": "kept"}).encode()

    def describe(kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    document = {
        "schemaVersion": 2,
        "annotations": {"org.example": "kept"},
        "config": describe("config.v1+json", config),
        "layers": [describe("layer.v1.tar+gzip" if blob[:1] == b"\x1f" else "layer.v1.tar", blob) for blob in blobs],
    }
    manifest = json.dumps(document, indent=spaces).encode()
    entry = {**describe("manifest.v1+json", manifest), "annotations": {"org.opencontainers.image.ref.name": name}}
    members = [file(f"blobs/sha256/{digest(data)[7:]}", data) for data in (manifest, config, *blobs)]
    members += [file("index.json", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode())]
    return tar([*members, file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')])


async def test_a_manifest_goes_out_byte_for_byte_as_it_came(store: ContentStore) -> None:
    packed = gzip.compress(ROOT)
    await store.load(chunks(layout(ROOT, UPPER, blobs=(packed, UPPER))))
    files = await saved(store, "reef:1")
    (entry,) = json.loads(files["index.json"])["manifests"]
    manifest = files[f"blobs/sha256/{entry['digest'][7:]}"]
    assert digest(manifest) == entry["digest"]
    assert json.loads(manifest)["annotations"] == {"org.example": "kept"}
    assert files[f"blobs/sha256/{digest(packed)[7:]}"] == packed
    assert json.loads(files["manifest.json"]) == [
        {
            "Config": f"blobs/sha256/{(await store.get('reef:1')).id[7:]}",
            "RepoTags": ["reef:1"],
            "Layers": [f"blobs/sha256/{digest(blob)[7:]}" for blob in (packed, UPPER)],
        }
    ]


@pytest.mark.parametrize("kind", list(ArchiveFormat))
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
async def test_what_was_saved_is_loaded_and_saved_the_same_again(
    store: ContentStore, tmp_path: Path, kind: ArchiveFormat, pack: Callable[[bytes], bytes]
) -> None:
    await store.load(chunks(layout(ROOT, UPPER, blobs=(pack(ROOT), UPPER))))
    await store.tag("reef:1", "localhost:5000/deep/reef:2")
    first = await archive(store, "reef:1", "localhost:5000/deep/reef:2", kind=kind)
    other = open_store(tmp_path / "second")
    assert sorted(await other.load(chunks(first))) == ["localhost:5000/deep/reef:2", "reef:1"]
    assert (await other.get("reef:1")).id == (await store.get("reef:1")).id
    assert await archive(other, "reef:1", "localhost:5000/deep/reef:2", kind=kind) == first


async def test_an_imported_image_always_gets_the_same_manifest(store: ContentStore, tmp_path: Path) -> None:
    image = await store.import_(chunks(gzip.compress(ROOT)), "reef", ['CMD ["sh"]'])
    first = await archive(store, "reef")
    other = open_store(tmp_path / "second")
    assert await other.load(chunks(first)) == ["reef:latest"]
    assert (await other.get("reef")).id == image.id
    assert await archive(other, "reef") == first
    files = await saved(store, "reef")
    (entry,) = json.loads(files["index.json"])["manifests"]
    (layer,) = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])["layers"]
    assert layer["mediaType"] == "application/vnd.oci.image.layer.v1.tar+gzip"


async def test_a_layer_in_a_compression_that_no_media_type_names_goes_out_unpacked(store: ContentStore) -> None:
    await store.import_(chunks(bz2.compress(ROOT)), "reef")
    files = await saved(store, "reef")
    assert files[f"blobs/sha256/{digest(ROOT)[7:]}"] == ROOT
    (entry,) = json.loads(files["index.json"])["manifests"]
    (layer,) = json.loads(files[f"blobs/sha256/{entry['digest'][7:]}"])["layers"]
    assert layer == {
        "mediaType": "application/vnd.oci.image.layer.v1.tar",
        "digest": digest(ROOT),
        "size": len(ROOT),
    }


async def test_several_images_share_their_blobs_in_one_archive(store: ContentStore, tmp_path: Path) -> None:
    await store.load(chunks(layout(ROOT, blobs=(ROOT,), name="a:1")))
    await store.load(chunks(layout(ROOT, UPPER, blobs=(ROOT, UPPER), name="b:1")))
    other = open_store(tmp_path / "second")
    assert await other.load(chunks(await archive(store, "a:1", "b:1"))) == ["a:1", "b:1"]


async def test_a_repository_alone_means_all_its_tags(store: ContentStore) -> None:
    await store.import_(chunks(ROOT), "reef:1")
    await store.import_(chunks(UPPER), "reef:2")
    await store.import_(chunks(UPPER), "other:3")
    assert [entry["RepoTags"] for entry in json.loads((await saved(store, "reef"))["manifest.json"])] == [
        ["reef:1"],
        ["reef:2"],
    ]


async def test_an_image_that_was_named_by_its_id_has_no_name_in_the_archive(store: ContentStore) -> None:
    image = await store.import_(chunks(ROOT), "reef")
    files = await saved(store, image.id[7:19])
    assert json.loads(files["manifest.json"])[0]["RepoTags"] is None
    assert "annotations" not in json.loads(files["index.json"])["manifests"][0]


async def test_what_is_asked_for_alone_is_there_alone(store: ContentStore) -> None:
    await store.import_(chunks(ROOT), "reef")
    assert "manifest.json" not in await saved(store, "reef", kind=ArchiveFormat.OCI)
    docker = await saved(store, "reef", kind=ArchiveFormat.DOCKER)
    assert {"index.json", "oci-layout"}.isdisjoint(docker)
    assert not any(name.startswith("blobs/") for name in docker)


async def test_what_is_not_here_cannot_be_saved(store: ContentStore) -> None:
    with pytest.raises(NotFound, match="is not here"):
        await archive(store, "nothing")


@pytest.mark.parametrize("damage", [lambda data: data[:-1] + b"!", lambda data: data[:-1], lambda data: data + b"!"])
async def test_a_damaged_blob_breaks_the_archive_off(
    store: ContentStore, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    await store.import_(chunks(ROOT), "reef")
    blob = tmp_path / "first/content/blobs/sha256" / digest(ROOT)[7:]
    blob.write_bytes(damage(ROOT))
    with pytest.raises(InvalidRequest, match="was damaged on disk"):
        await archive(store, "reef")


async def test_an_image_that_is_removed_while_it_is_saved_is_saved_whole(store: ContentStore, tmp_path: Path) -> None:
    await store.import_(chunks(ROOT), "reef")
    whole = await archive(store, "reef")
    saving = store.save(["reef"])
    got = await anext(saving)
    await store.remove("reef")
    async for chunk in saving:
        got += chunk
    assert got == whole
    assert not [path for path in (tmp_path / "first/content").rglob("*") if path.is_file()]


async def test_who_stops_reading_leaves_nothing_open(store: ContentStore, tmp_path: Path) -> None:
    await store.import_(chunks(ROOT), "reef")
    saving = store.save(["reef"])
    await anext(saving)
    await saving.aclose()
    await store.remove("reef")
    await asyncio.sleep(0)
    assert not [path for path in (tmp_path / "first/content").rglob("*") if path.is_file()]


async def test_archives_of_docker_since_25_are_loaded_with_their_manifests(store: ContentStore) -> None:
    """As `docker save` writes them: more in the index than is for us, and more in each entry."""
    config = json.dumps(
        {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(ROOT)]}}
    ).encode()

    def describe(kind: str, data: bytes, **more: object) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data), **more}

    layers = [describe("layer.v1.tar", ROOT)]
    manifest = json.dumps({"schemaVersion": 2, "config": describe("config.v1+json", config), "layers": layers}).encode()
    platforms = [
        describe("manifest.v1+json", manifest, platform={"os": "linux", "architecture": "amd64"}),
        describe("manifest.v1+json", b"not here", platform={"os": "linux", "architecture": "arm64"}),
        describe("manifest.v1+json", b"nor this", platform={"os": "unknown", "architecture": "unknown"}),
    ]
    inner = json.dumps({"schemaVersion": 2, "manifests": platforms}).encode()
    name = {"io.containerd.image.name": "docker.io/library/reef:1", "org.opencontainers.image.ref.name": "1"}
    outer = {"schemaVersion": 2, "manifests": [describe("index.v1+json", inner, annotations=name)]}
    entry = {
        "Config": f"blobs/sha256/{digest(config)[7:]}",
        "RepoTags": ["reef:1"],
        "Layers": [f"blobs/sha256/{digest(ROOT)[7:]}"],
        "LayerSources": {digest(ROOT): layers[0]},
    }
    members = [file(f"blobs/sha256/{digest(data)[7:]}", data) for data in (config, manifest, inner, ROOT)]
    members += [file("index.json", json.dumps(outer).encode()), file("manifest.json", json.dumps([entry]).encode())]
    members += [file("repositories", b'{"reef":{"1":"0"}}'), file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')]
    assert await store.load(chunks(tar([directory("blobs"), directory("blobs/sha256"), *members]))) == ["reef:1"]
    files = await saved(store, "reef:1")
    assert files[f"blobs/sha256/{digest(manifest)[7:]}"] == manifest
    assert json.loads(files["index.json"])["manifests"][0]["digest"] == digest(manifest)
