"""Images: references, content, layers and the disks that VMs see of them."""

from atoll.image.disk import ComposedDisk
from atoll.image.image import Image, Layer
from atoll.image.limits import Limits
from atoll.image.reference import Reference
from atoll.image.store import ContentStore

__all__ = ["ComposedDisk", "ContentStore", "Image", "Layer", "Limits", "Reference"]
