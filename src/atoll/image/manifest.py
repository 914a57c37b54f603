"""Manifests and indexes from outside: read, checked, and resolved to one platform."""

from typing import TypeVar

import msgspec
from msgspec import Struct

from atoll.errors import InvalidRequest, NotFound, Unsupported
from atoll.image.limits import DEFAULT_LIMITS, Limits
from atoll.image.oci import CONFIGS, INDEXES, LAYERS, MANIFESTS, Descriptor, ImageConfig, Index, Manifest, Platform

_ARCHITECTURES = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64", "armhf": "arm", "armel": "arm"}

Document = TypeVar("Document")

HOST = Platform(os="linux", architecture="amd64")
"""The platform of our guests."""


class _Shape(Struct, frozen=True, rename="camel"):
    """Just enough to tell an index from a manifest."""

    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()


def parse_platform(text: str) -> Platform:
    """Read `os/architecture[/variant]`, as `--platform` takes it; raises `InvalidRequest`."""
    parts = text.lower().split("/")
    if not 2 <= len(parts) <= 3 or not all(parts):
        raise InvalidRequest(f"platform {text!r} is not os/architecture: write for example {HOST}")
    architecture = _ARCHITECTURES.get(parts[1], parts[1])
    return Platform(os=parts[0], architecture=architecture, variant=parts[2] if len(parts) == 3 else "")


def parse_manifest(data: bytes, media_type: str = "", *, limits: Limits = DEFAULT_LIMITS) -> Manifest | Index:
    """Read an index or a manifest; `media_type` is what came with it, if anything did.

    Raises `InvalidRequest` for what is no manifest, `Unsupported` for kinds that hold no image we can run.
    """
    shape = _decode(data, _Shape, "manifest")
    if shape.schema_version == 1:
        raise Unsupported("the image has a manifest of schema 1, which is obsolete: push it again with a newer tool")
    if shape.schema_version != 2:
        raise InvalidRequest(f"this is no image manifest: its schemaVersion is {shape.schema_version}, not 2")
    has_manifests, has_layers = bool(bytes(shape.manifests)), bool(bytes(shape.layers) or bytes(shape.config))
    if has_manifests == has_layers:
        # Both: what it means would depend on who reads it (CVE-2021-41190).
        raise InvalidRequest("this is no image manifest: it must have either 'manifests' or 'config' and 'layers'")
    kinds = INDEXES if has_manifests else MANIFESTS
    for kind in {shape.media_type, media_type} - {""}:
        if kind not in kinds:
            raise InvalidRequest(f"this is no image manifest: its content does not fit its media type {kind!r}")
    if has_manifests:
        return _decode(data, Index, "image index")
    manifest = _decode(data, Manifest, "image manifest")
    _check(manifest, limits)
    return manifest


def parse_config(data: bytes) -> ImageConfig:
    """Read an image's configuration; raises `InvalidRequest` when it is none."""
    config = _decode(data, ImageConfig, "image configuration")
    if config.rootfs.type != "layers":
        raise InvalidRequest(f"image configuration is malformed: its rootfs is of type {config.rootfs.type!r}")
    return config


def choose(index: Index, platform: Platform = HOST) -> Descriptor:
    """The member of `index` for `platform`; raises `NotFound` naming those that there are."""
    candidates = [entry for entry in index.manifests if entry.media_type in MANIFESTS | INDEXES]
    for entry in candidates:
        if entry.platform is not None and runs_on(entry.platform, platform):
            return entry
    there = sorted({str(entry.platform) for entry in candidates if entry.platform is not None} - {"unknown/unknown"})
    raise NotFound(f"no matching manifest for {platform} in the image index: it has {', '.join(there) or 'none'}")


def runs_on(image: Platform, platform: Platform) -> bool:
    """Whether an image for `image` runs on `platform`; a variant counts only where one is asked for."""
    same = (image.os, image.architecture) == (platform.os, platform.architecture)
    default = {"arm64": "v8", "arm": "v7", "amd64": "v1"}.get(image.architecture, "")
    if not platform.variant:
        # amd64 has levels (v2, v3) that not every CPU has: only the base is ours without asking.
        return same and (image.architecture != "amd64" or image.variant in ("", default))
    return same and (image.variant or default) == platform.variant


def _check(manifest: Manifest, limits: Limits) -> None:
    if manifest.config.media_type not in CONFIGS:
        raise Unsupported(f"this is no container image: its configuration is {manifest.config.media_type!r}")
    if len(manifest.layers) > limits.layers:
        raise Unsupported(f"the image has {len(manifest.layers)} layers: {limits.layers} is the most that can be run")
    for layer in manifest.layers:
        if "foreign" in layer.media_type or "nondistributable" in layer.media_type:
            raise Unsupported(f"layer {layer.digest} is kept elsewhere (a foreign layer): such images cannot be pulled")
        if layer.media_type not in LAYERS:
            raise Unsupported(f"layer {layer.digest} is of the unknown kind {layer.media_type!r}")


def _decode(data: bytes, kind: type[Document], what: str) -> Document:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"{what} is malformed: {error}") from error
