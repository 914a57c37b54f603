import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import AtollError, InvalidRequest, NotFound, Unsupported
from atoll.image.manifest import HOST, choose, parse_config, parse_manifest, parse_platform
from atoll.image.oci import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    Index,
    Manifest,
)

DIGEST = "sha256:" + "ab" * 32


def descriptor(media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 3, **more}


def manifest(**changes: object) -> dict[str, object]:
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(OCI_LAYER + "+gzip")],
    }
    return {key: value for key, value in (document | changes).items() if value is not None}


def index(*platforms: tuple[str, str, str]) -> Index:
    entries = [
        descriptor(OCI_MANIFEST, platform={"os": system, "architecture": architecture, "variant": variant})
        for system, architecture, variant in platforms
    ]
    parsed = parse_manifest(json.dumps({"schemaVersion": 2, "manifests": entries}).encode(), OCI_INDEX)
    assert isinstance(parsed, Index)
    return parsed


def test_a_manifest_is_read_with_its_layers_in_order() -> None:
    parsed = parse_manifest(json.dumps(manifest(annotations={"a": "b"}, futureField=1)).encode())
    assert isinstance(parsed, Manifest)
    assert parsed.layers[0].media_type == OCI_LAYER + "+gzip"
    assert parsed.annotations == {"a": "b"}


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"schemaVersion": 1}, Unsupported, "schema 1"),
        ({"schemaVersion": 3}, InvalidRequest, "schemaVersion is 3"),
        ({"manifests": []}, InvalidRequest, "either"),
        ({"config": None, "layers": None}, InvalidRequest, "either"),
        ({"layers": None}, InvalidRequest, "layers"),
        ({"mediaType": DOCKER_LIST}, InvalidRequest, "does not fit"),
        ({"config": descriptor("application/vnd.cncf.helm.config.v1+json")}, Unsupported, "no container image"),
        ({"layers": [descriptor("application/x-unknown")]}, Unsupported, "unknown kind"),
        ({"layers": [descriptor(OCI_LAYER.replace("layer.", "layer.nondistributable."))]}, Unsupported, "foreign"),
        ({"layers": [descriptor(OCI_LAYER)] * 128}, Unsupported, "128 layers"),
        ({"layers": [{**descriptor(OCI_LAYER), "size": -1}]}, InvalidRequest, "size"),
        ({"layers": [{**descriptor(OCI_LAYER), "digest": "sha256:../../etc"}]}, InvalidRequest, "digest"),
        ({"layers": [{**descriptor(OCI_LAYER), "digest": DIGEST + "\n"}]}, InvalidRequest, "digest"),
    ],
)
def test_a_manifest_that_is_no_image_is_refused(changes: dict[str, object], error: type[AtollError], why: str) -> None:
    with pytest.raises(error, match=why):
        parse_manifest(json.dumps(manifest(**changes)).encode())


def test_a_manifest_must_be_what_the_registry_said_it_is() -> None:
    document = json.dumps(manifest(mediaType=None)).encode()
    assert isinstance(parse_manifest(document, DOCKER_MANIFEST), Manifest)
    with pytest.raises(InvalidRequest, match="does not fit"):
        parse_manifest(document, OCI_INDEX)


@pytest.mark.parametrize("data", [b"", b"<html>", b"[]", b"null", b"{}", b"\xff\xfe", b"[" * 100_000])
def test_what_is_not_a_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_manifest(data)


def test_our_platform_is_chosen_from_an_index() -> None:
    there = index(
        ("linux", "arm64", "v8"), ("linux", "amd64", "v3"), ("unknown", "unknown", ""), ("linux", "amd64", "")
    )
    assert choose(there) == there.manifests[3]
    assert choose(there, parse_platform("linux/arm64")) == there.manifests[0]
    assert choose(there, parse_platform("linux/amd64/v3")) == there.manifests[1]


def test_an_index_without_our_platform_names_those_it_has() -> None:
    with pytest.raises(NotFound, match=r"linux/amd64 in the image index: it has linux/arm64/v8, linux/s390x"):
        choose(index(("linux", "s390x", ""), ("linux", "arm64", "v8"), ("unknown", "unknown", "")))


@pytest.mark.parametrize("text", ["linux", "", "a/b/c/d", "linux/", "/amd64"])
def test_a_wrong_platform_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="os/architecture"):
        parse_platform(text)


def test_platform_names_of_other_tools_are_understood() -> None:
    assert parse_platform("Linux/x86_64") == HOST


def test_a_configuration_may_say_null_wherever_go_does() -> None:
    config = parse_config(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "created": "2024-01-02T03:04:05.123456789Z",
                "config": {"Env": None, "Cmd": None, "Volumes": {"/data": {}}, "Labels": None, "Entrypoint": ["/a"]},
                "rootfs": {"type": "layers", "diff_ids": None},
                "history": None,
                "container_config": {"Hostname": "x"},
            }
        ).encode()
    )
    assert config.diff_ids == ()
    assert config.execution.entrypoint == ("/a",)
    assert list(config.execution.volumes or {}) == ["/data"]
    assert str(config.platform) == "linux/amd64"


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.just(DIGEST),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(manifest())), JSON), st.sampled_from(["", OCI_MANIFEST, OCI_INDEX]))
def test_any_json_is_read_or_refused(changes: dict[str, Any], media_type: str) -> None:
    data = json.dumps(manifest(**changes)).encode()
    try:
        parsed = parse_manifest(data, media_type)
    except AtollError:
        return
    assert parse_manifest(msgspec.json.encode(parsed), media_type) == parsed


@given(st.binary())
def test_any_bytes_are_read_as_configuration_or_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_config(data)
