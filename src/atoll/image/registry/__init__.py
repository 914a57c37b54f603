"""Clients of registries: where they are, how we prove who we are, pulling, pushing."""

from atoll.image.registry.certificates import DOCKERS_CERTIFICATES
from atoll.image.registry.credentials import ANONYMOUS, Credentials
from atoll.image.registry.endpoint import DEFAULT_REGISTRIES, Registries, Scheme
from atoll.image.registry.login import log_in
from atoll.image.registry.patience import Patience
from atoll.image.registry.sources import Sources, open_sources, repository_tags
from atoll.image.registry.upload import Uploads, open_uploads

__all__ = [
    "ANONYMOUS",
    "DEFAULT_REGISTRIES",
    "DOCKERS_CERTIFICATES",
    "Credentials",
    "Patience",
    "Registries",
    "Scheme",
    "Sources",
    "Uploads",
    "log_in",
    "open_sources",
    "open_uploads",
    "repository_tags",
]
