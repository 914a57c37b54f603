"""How much of an image we are ready to take in: every bound on input from outside, in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The bounds of one store; `layer_bytes` holds for a layer's tar, unpacked, and for the files in it."""

    layer_bytes: int = 64 << 30
    layer_metadata_bytes: int = 768 << 20
    """Memory for the tree of a layer, estimated: a million and a half entries."""
    blob_bytes: int = 64 << 30
    document_bytes: int = 8 << 20
    """A manifest, an index or a configuration; registries take 4 MiB."""
    layers: int = 127
    """As Docker. The partitions of one GPT disk, less one."""


DEFAULT_LIMITS = Limits()
