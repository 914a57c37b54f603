"""What a user's word for an image means: a name, a digest, an id or the beginning of one."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from atoll.errors import InvalidRequest, NotFound
from atoll.image.catalog import Catalog
from atoll.image.reference import Reference

_IDENTIFIER = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})", re.ASCII)


class Names:
    """The names that the images in `catalog` go by."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def find(self, name: str) -> tuple[str, Reference | None]:
        """The image's id, and the reference in the catalog if `name` is one and not an id."""
        if name.startswith("sha256:") and name in self._catalog.ids():
            return name, None
        try:
            reference = Reference.parse(name).tagged()
        except InvalidRequest:
            reference = None
        if reference is not None and (found := self._catalog.find(reference)):
            return found, replace(reference, tag=None) if reference.digest else reference
        if match := _IDENTIFIER.fullmatch(name):
            ids = self._catalog.ids(match[1])
            if len(ids) == 1:
                return ids[0], None
            if ids:
                raise NotFound(f"image {name} is not one: {len(ids)} ids begin like that, write more of it")
        raise NotFound(f"image {name} is not here: pull it, or check the name with 'atoll images'")

    def find_all(self, name: str) -> Sequence[tuple[str, Reference | None]]:
        """The images that `name` means, as `find`; every tag of a repository whose name stands alone."""
        with suppress(InvalidRequest):
            reference = Reference.parse(name)
            if not reference.tag and not reference.digest:
                tags = self._catalog.tags(reference.repository)
                if tags:
                    return [(image_id, tag) for tag, image_id in tags]
        return [self.find(name)]


def name_to_give(text: str) -> Reference:
    """The name, with a tag, that an image is to have; raises `InvalidRequest`."""
    name = Reference.parse(text)
    if name.digest:
        raise InvalidRequest(f"refusing to create a tag with a digest reference: {text!r}")
    return name.tagged()
