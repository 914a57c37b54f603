"""Pulling what `skopeo` has pushed to Debian's `docker-registry`, on loopback."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.archives import directory, file, symlink, tar
from harness.docker_registry import docker_registry
from harness.skopeo import skopeo

from atoll.errors import InvalidRequest, NotFound
from atoll.image import ContentStore
from atoll.store.database import Database


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a registry of this module's own."""
    with docker_registry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry.address


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "content", Database(tmp_path / "atoll.db"))


LAYERS = [
    tar([directory("bin"), file("bin/sh", b"shell" * 10_000), file("etc/reef", b"coral"), symlink("s", "bin/sh")]),
    tar([file("etc/.wh.reef"), file("new", b"n")]),
]


def layout(root: Path, *architectures: str) -> Path:
    """An OCI layout with an image of two layers for every architecture."""
    blobs = root / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(kind: str, data: bytes) -> dict[str, object]:
        digest = subprocess.run(["sha256sum"], input=data, capture_output=True, check=True).stdout[:64].decode()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    layers = [put("layer.v1.tar", layer) for layer in LAYERS]
    manifests = []
    for architecture in architectures:
        rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]}
        config = {"architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": rootfs}
        described = put("config.v1+json", json.dumps(config).encode())
        manifest = {"schemaVersion": 2, "config": described, "layers": layers}
        platform = {"os": "linux", "architecture": architecture}
        manifests.append({**put("manifest.v1+json", json.dumps(manifest).encode()), "platform": platform})
    index = put("index.v1+json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
    annotations = {"org.opencontainers.image.ref.name": "reef"}
    outer = {"schemaVersion": 2, "manifests": [{**index, "annotations": annotations}]}
    (root / "index.json").write_text(json.dumps(outer))
    (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return root


def push(source: Path, target: str, *flags: str) -> str:
    """Push a layout with skopeo and return the digest that the registry knows it by."""
    digest_file = source / "pushed"
    options = ["-q", "--dest-tls-verify=false", f"--digestfile={digest_file}"]
    skopeo("copy", *options, *flags, f"oci:{source}:reef", f"docker://{target}")
    return digest_file.read_text().strip()


@pytest.mark.parametrize(
    "flags",
    [
        ["--dest-compress-format=gzip"],
        ["--dest-compress-format=zstd", "--dest-compress"],
        ["--format=v2s2"],
        ["--dest-decompress"],
    ],
)
async def test_an_image_is_pulled_as_it_was_pushed(
    store: ContentStore, registry: str, tmp_path: Path, flags: list[str]
) -> None:
    name = f"{registry}/reef/{flags[0].strip('-').replace('=', '-')}:1"
    digest = push(layout(tmp_path / "layout", "amd64"), name, *flags)
    image = await store.pull(name)
    assert image.repo_digests == (f"{name.removesuffix(':1')}@{digest}",)
    assert image.config.execution.cmd == ("sh",)
    assert len(image.layers) == 2
    again = await store.pull(f"{name.removesuffix(':1')}@{digest}")
    assert again.id == image.id


async def test_an_index_is_resolved_to_our_platform(store: ContentStore, registry: str, tmp_path: Path) -> None:
    digest = push(layout(tmp_path / "layout", "arm64", "amd64"), f"{registry}/many:1", "--all")
    image = await store.pull(f"{registry}/many:1")
    assert str(image.config.platform) == "linux/amd64"
    assert image.repo_digests == (f"{registry}/many@{digest}",)


async def test_an_index_without_our_platform_says_what_it_has(
    store: ContentStore, registry: str, tmp_path: Path
) -> None:
    push(layout(tmp_path / "layout", "arm64", "s390x"), f"{registry}/other:1", "--all")
    with pytest.raises(NotFound, match=r"linux/amd64 in the image index: it has linux/arm64, linux/s390x"):
        await store.pull(f"{registry}/other:1")
    assert await store.list() == []


@pytest.mark.parametrize("name", ["nothing:1", "many:nothing"])
async def test_what_a_registry_does_not_have_is_not_found(store: ContentStore, registry: str, name: str) -> None:
    with pytest.raises(NotFound, match="not found"):
        await store.pull(f"{registry}/{name}")


async def test_a_tampered_blob_is_refused(
    store: ContentStore, registry: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    push(layout(tmp_path / "layout", "amd64"), f"{registry}/tampered:1")
    image = await store.pull(f"{registry}/tampered:1")
    blobs = {path.name for path in (tmp_path / "content/blobs/sha256").iterdir()}
    stored = [path for path in tmp_path_factory.getbasetemp().glob("registry*/**/data") if path.parent.name in blobs]
    await store.remove(image.id, force=True)
    for path in stored:
        data = path.read_bytes()
        if data.startswith(b"\x1f\x8b"):
            path.write_bytes(data[:-6] + bytes(6))
    with pytest.raises(InvalidRequest, match="is not what it claims to be"):
        await store.pull(f"{registry}/tampered:1")
    assert await store.list() == []
