"""An image as the rest of Atoll sees it."""

from dataclasses import dataclass
from pathlib import Path

from atoll.image.oci import ImageConfig


@dataclass(frozen=True)
class Layer:
    """One layer of an image: a squashfs of `size_bytes`, shared by all images that have it."""

    diff_id: str
    squashfs: Path
    size_bytes: int


@dataclass(frozen=True)
class Image:
    """An image that is here; `id` is the digest of its configuration, the names are those that users are shown."""

    id: str
    config: ImageConfig
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    layers: tuple[Layer, ...]

    @property
    def size_bytes(self) -> int:
        """What the layers take, shared or not."""
        return sum(layer.size_bytes for layer in self.layers)
