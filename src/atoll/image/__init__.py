"""Images: references, content, layers and the disks that VMs see of them."""

from atoll.image.check import Checked, Finding
from atoll.image.commit import Commit, merged_execution
from atoll.image.disk import ComposedDisk, glue
from atoll.image.image import Image, Layer
from atoll.image.layer import write_layer
from atoll.image.limits import Limits
from atoll.image.oci import Execution
from atoll.image.reference import Reference, registry_domain
from atoll.image.registry import (
    ANONYMOUS,
    DOCKERS_CERTIFICATES,
    Credentials,
    Patience,
    Registries,
    Scheme,
    log_in,
    repository_tags,
)
from atoll.image.save import ArchiveFormat
from atoll.image.store import ContentStore
from atoll.image.usage import Usage
from atoll.image.writable import make_writable_disk

__all__ = [
    "ANONYMOUS",
    "DOCKERS_CERTIFICATES",
    "ArchiveFormat",
    "Checked",
    "Commit",
    "ComposedDisk",
    "ContentStore",
    "Credentials",
    "Execution",
    "Finding",
    "Image",
    "Layer",
    "Limits",
    "Patience",
    "Reference",
    "Registries",
    "Scheme",
    "Usage",
    "glue",
    "log_in",
    "make_writable_disk",
    "merged_execution",
    "registry_domain",
    "repository_tags",
    "write_layer",
]
