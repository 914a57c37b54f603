"""Images: references, content, layers and the disks that VMs see of them."""

from atoll.image.disk import ComposedDisk
from atoll.image.image import Image, Layer
from atoll.image.layer import write_layer
from atoll.image.limits import Limits
from atoll.image.reference import Reference
from atoll.image.registry import DOCKERS_CERTIFICATES, Credentials, Patience, Registries, Scheme
from atoll.image.save import ArchiveFormat
from atoll.image.store import ContentStore
from atoll.image.writable import make_writable_disk

__all__ = [
    "DOCKERS_CERTIFICATES",
    "ArchiveFormat",
    "ComposedDisk",
    "ContentStore",
    "Credentials",
    "Image",
    "Layer",
    "Limits",
    "Patience",
    "Reference",
    "Registries",
    "Scheme",
    "make_writable_disk",
    "write_layer",
]
