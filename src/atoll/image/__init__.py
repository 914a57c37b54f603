"""Images: references, content, layers and the disks that VMs see of them."""

from atoll.image.disk import ComposedDisk, glue
from atoll.image.image import Image, Layer
from atoll.image.layer import write_layer
from atoll.image.limits import Limits
from atoll.image.reference import Reference
from atoll.image.store import ContentStore
from atoll.image.writable import make_writable_disk

__all__ = [
    "ComposedDisk",
    "ContentStore",
    "Image",
    "Layer",
    "Limits",
    "Reference",
    "glue",
    "make_writable_disk",
    "write_layer",
]
