"""What a user's word for an image means: a name, a digest, an id or the beginning of one."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from atoll.errors import Conflict, InvalidRequest, NotFound
from atoll.image.catalog import Catalog
from atoll.image.reference import Reference

_IDENTIFIER = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})", re.ASCII)


@dataclass(frozen=True)
class Leaving:
    """What is taken away when a name is removed; with `is_last`, nothing is left that the image could be found by."""

    image_id: str
    names: tuple[Reference, ...]
    is_last: bool


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

    def leaving(self, name: str, *, force: bool) -> Leaving:
        """What goes with `name`: by an id all names, by a repository's last tag the digests that it was pulled under.

        Raises `Conflict` for an id whose image is in several repositories, unless `force`; `NotFound`.
        """
        image_id, reference = self.find(name)
        tags, digests = self._catalog.names(image_id), self._catalog.digests(image_id)
        if reference is None:
            if len({known.repository for known in tags}) > 1 and not force:
                raise Conflict(
                    f"conflict: unable to delete {short_id(image_id)} (must be forced)"
                    " - image is referenced in multiple repositories"
                )
            return Leaving(image_id, (*tags, *digests), is_last=True)
        going = [reference]
        others = [known for known in tags if known != reference]
        if not any(known.repository == reference.repository for known in others):
            going += [known for known in digests if known.repository == reference.repository and known != reference]
        return Leaving(image_id, tuple(going), is_last=set(going) >= set(tags) and (bool(reference.tag) or not tags))


def short_id(image_id: str) -> str:
    """An image's id as users are shown it."""
    return image_id.removeprefix("sha256:")[:12]


def name_to_give(text: str) -> Reference:
    """The name, with a tag, that an image is to have; raises `InvalidRequest`."""
    name = Reference.parse(text)
    if name.digest:
        raise InvalidRequest(f"refusing to create a tag with a digest reference: {text!r}")
    return name.tagged()
