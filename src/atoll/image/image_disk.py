"""The disk of an image: its layers, with their hash trees or without, composed when it is wanted first."""

from pathlib import Path

from atoll.errors import NotFound
from atoll.image.disk import ComposedDisk, DiskLayer, compose_disk, disk_key
from atoll.image.image import Image
from atoll.image.verity import TreeStore


def image_disk(image: Image, disks: Path, trees: TreeStore | None, ingest: Path) -> ComposedDisk:
    """The disk of `image` below `disks`, with the `trees` of its layers if these are given; blocks.

    Raises `NotFound` when a layer is gone, and what `compose_disk` and `TreeStore.tree` raise.
    """
    for layer in image.layers:
        if not layer.squashfs.exists():
            raise NotFound(f"layer {layer.diff_id} is not in the content store: load or pull the image again")
    layers = [
        DiskLayer(layer.diff_id, layer.squashfs, trees.tree(layer.diff_id, layer.squashfs) if trees else None)
        for layer in image.layers
    ]
    directory = disks / disk_key([layer.diff_id for layer in layers], verified=trees is not None)
    return compose_disk(layers, directory, ingest)
