"""`atoll images`: the images that are here."""

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.ps import SHORT_ID
from atoll.cli.flags import switch
from atoll.cli.listing import FORMAT, Filters, collect, filters_flag, listing
from atoll.cli.session import Session
from atoll.cli.values.references import split_reference
from atoll.cli.values.sizes import human_size
from atoll.cli.values.times import human_duration
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import ImageSummary

HEADERS = {
    "Repository": "REPOSITORY",
    "Tag": "TAG",
    "Digest": "DIGEST",
    "ID": "IMAGE ID",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "Size": "SIZE",
    "VirtualSize": "VIRTUAL SIZE",
    "SharedSize": "SHARED SIZE",
    "UniqueSize": "UNIQUE SIZE",
    "Containers": "CONTAINERS",
}
COLUMNS = ("Repository", "Tag", "ID", "CreatedSince", "Size")
COLUMNS_WITH_DIGEST = ("Repository", "Tag", "Digest", "ID", "CreatedSince", "Size")
NONE = "<none>"
UNKNOWN = "N/A"


@verb(
    "images",
    "[REPOSITORY[:TAG]]",
    help="List images",
    at_most=1,
    aliases=("atoll image ls", "atoll image list", "atoll images"),
)
@switch("-a", "--all", "everything", help="Show all images (default hides intermediate images)")
@switch("--digests", help="Show digests")
@filters_flag("-f")
@FORMAT
@switch("--no-trunc", help="Don't truncate output")
@switch("-q", "--quiet", help="Only show image IDs")
def images(
    session: Session,
    everything: bool,
    digests: bool,
    filters: Filters,
    format: str | None,
    no_trunc: bool,
    quiet: bool,
    arguments: Sequence[str],
) -> None:
    """List images, a row for each name."""
    from atoll.client import images as endpoints

    wanted = collect(filters)
    if arguments:
        wanted.setdefault("reference", []).append(arguments[0])
    found = endpoints.list_images(session.client, everything=everything, digests=digests, filters=wanted)
    if quiet and not format:
        format = "{{.ID}}"
    rows = [row for image in found for row in image_rows(image, truncate=not no_trunc, digests=digests)]
    text = listing(rows, HEADERS, COLUMNS_WITH_DIGEST if digests else COLUMNS, format)
    if text or rows:
        session.print(text)


def image_rows(image: "ImageSummary", *, truncate: bool, digests: bool) -> Iterator[dict[str, str]]:
    """A row for each name of an image, its fields as text."""
    created = image.get("Created", 0)
    size, shared = human_size(image.get("Size", 0)), image.get("SharedSize", -1)
    fields = {
        "ID": image["Id"].removeprefix("sha256:")[:SHORT_ID] if truncate else image["Id"],
        "CreatedSince": f"{human_duration(time.time() - created)} ago" if created else UNKNOWN,
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "Size": size,
        "VirtualSize": size,
        "SharedSize": UNKNOWN if shared < 0 else human_size(shared, 4),
        "UniqueSize": UNKNOWN if shared < 0 else human_size(image.get("Size", 0) - shared, 4),
        "Containers": str(image["Containers"]) if image.get("Containers", -1) >= 0 else UNKNOWN,
    }
    for repository, tag, digest in _names(image, digests=digests):
        yield {"Repository": repository, "Tag": tag, "Digest": digest, **fields}


def _names(image: "ImageSummary", *, digests: bool) -> Iterator[tuple[str, str, str]]:
    """Repository, tag and digest of each row that an image has."""
    tags = [split_reference(name) for name in image.get("RepoTags") or () if name != f"{NONE}:{NONE}"]
    by_repository = dict(split_reference(name) for name in image.get("RepoDigests") or () if not name.startswith(NONE))
    for repository, tag in tags:
        yield repository, tag or NONE, by_repository.get(repository, NONE)
    tagged = {repository for repository, _ in tags}
    for repository, digest in by_repository.items():
        if repository not in tagged and (digests or not tags):
            yield repository, NONE, digest
    if not tags and not by_repository:
        yield NONE, NONE, NONE
