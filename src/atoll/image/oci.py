"""The documents of an image: OCI image-spec 1.1 and its older twin, Docker's schema 2.

https://github.com/opencontainers/image-spec. Fields that we do not know stay in the blob, which is kept byte for byte;
null stands for an absent value, as Go writes it.
"""

from typing import Annotated

from msgspec import Meta, Struct

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYERS = frozenset(
    {OCI_LAYER, f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd", DOCKER_LAYER, f"{DOCKER_LAYER}.gzip", f"{DOCKER_LAYER}.zstd"}
)

Digest = Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0)]


class Platform(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an image runs on, in Go's words: `linux`, `amd64`, `v8`."""

    architecture: str
    os: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A typed reference to a blob of `size` bytes."""

    media_type: str
    digest: Digest
    size: Size
    urls: tuple[str, ...] | None = None
    annotations: dict[str, str] | None = None
    platform: Platform | None = None


class Index(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One image for several platforms (Docker: manifest list), or what an OCI layout holds."""

    schema_version: int
    media_type: str = ""
    manifests: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class Manifest(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One image: its configuration and its layers, bottom first."""

    schema_version: int
    media_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] | None = None


class Healthcheck(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """Docker's health check; durations in nanoseconds."""

    test: tuple[str, ...] | None = None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


class Empty(Struct, frozen=True):
    """Go's `struct{}`: the value of a set's members."""


class Execution(Struct, frozen=True, kw_only=True, rename="pascal", omit_defaults=True):
    """How a container of the image runs when the user says nothing else (the `config` of the configuration)."""

    user: str = ""
    exposed_ports: dict[str, Empty] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, Empty] | None = None
    working_dir: str = ""
    on_build: tuple[str, ...] | None = None
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    shell: tuple[str, ...] | None = None


class RootFilesystem(Struct, frozen=True, kw_only=True):
    """The layers by the digests of their uncompressed tar streams, bottom first."""

    type: str
    diff_ids: tuple[Digest, ...] | None = None


class History(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How one layer came to be; `created` as the builder wrote it."""

    created: str | None = None
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration of an image; the digest of its bytes is the image's id."""

    architecture: str
    os: str
    variant: str = ""
    created: str | None = None
    author: str = ""
    config: Execution | None = None
    rootfs: RootFilesystem
    history: tuple[History, ...] | None = None

    @property
    def platform(self) -> Platform:
        """What the image runs on."""
        return Platform(os=self.os, architecture=self.architecture, variant=self.variant)

    @property
    def execution(self) -> Execution:
        """`config`, an empty one where the image has none."""
        return self.config or Execution()

    @property
    def diff_ids(self) -> tuple[str, ...]:
        """The layers' diff IDs, bottom first."""
        return self.rootfs.diff_ids or ()
