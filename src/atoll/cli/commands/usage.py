"""`atoll system df`: what images, containers and volumes take on the disk."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.images import HEADERS as IMAGE_HEADERS
from atoll.cli.commands.images import image_rows
from atoll.cli.commands.ps import HEADERS as CONTAINER_HEADERS
from atoll.cli.commands.ps import container_row
from atoll.cli.errors import Failure
from atoll.cli.flags import switch
from atoll.cli.listing import FORMAT, Row, listing
from atoll.cli.session import Session
from atoll.cli.values.sizes import human_size
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import DiskUsage, Volume

HEADERS = {
    "Type": "TYPE",
    "TotalCount": "TOTAL",
    "Active": "ACTIVE",
    "Size": "SIZE",
    "Reclaimable": "RECLAIMABLE",
}
COLUMNS = tuple(HEADERS)
IMAGE_COLUMNS = ("Repository", "Tag", "ID", "CreatedSince", "Size", "SharedSize", "UniqueSize", "Containers")
CONTAINER_COLUMNS = ("ID", "Image", "Command", "LocalVolumes", "Size", "RunningFor", "Status", "Names")
VOLUME_HEADERS = {"Name": "VOLUME NAME", "Links": "LINKS", "Size": "SIZE"}
DIGITS = 4
RUNNING = ("running", "paused", "restarting")


@verb("df", help="Show disk usage", at_most=0)
@FORMAT
@switch("-v", "--verbose", help="Show detailed information on space usage")
def df(session: Session, format: str | None, verbose: bool, arguments: Sequence[str]) -> None:
    """Show a line for each kind of thing, or all the things."""
    from atoll.client import system

    if verbose and format:
        raise Failure("--verbose has tables of its own: leave out --format")
    used = system.disk_usage(session.client)
    session.print(_tables(used) if verbose else listing(_summary(used), HEADERS, COLUMNS, format))


def _summary(used: "DiskUsage") -> list[Row]:
    images, containers, volumes = used["Images"] or [], used["Containers"] or [], used["Volumes"] or []
    in_use = [image for image in images if image.get("Containers", 0) > 0]
    kept = sum(image.get("Size", 0) - max(image.get("SharedSize", 0), 0) for image in in_use)
    running = [container for container in containers if container.get("State") in RUNNING]
    written = sum(container.get("SizeRw", 0) for container in containers)
    still_written = sum(container.get("SizeRw", 0) for container in running)
    joined = [volume for volume in volumes if _links(volume) > 0]
    held = sum(map(_size, volumes))
    return [
        _line("Images", len(images), len(in_use), used["LayersSize"], used["LayersSize"] - kept),
        _line("Containers", len(containers), len(running), written, written - still_written),
        _line("Local Volumes", len(volumes), len(joined), held, held - sum(map(_size, joined))),
    ]


def _line(what: str, total: int, active: int, size_bytes: int, reclaimable_bytes: int) -> Row:
    share = f" ({reclaimable_bytes * 100 // size_bytes}%)" if size_bytes else ""
    return {
        "Type": what,
        "TotalCount": str(total),
        "Active": str(active),
        "Size": human_size(size_bytes, DIGITS),
        "Reclaimable": human_size(reclaimable_bytes, DIGITS) + share,
    }


def _tables(used: "DiskUsage") -> str:
    images = [row for image in used["Images"] or [] for row in image_rows(image, truncate=True, digests=False)]
    containers = [
        # The image's part has its table above.
        {**container_row(container, truncate=True), "Size": human_size(container.get("SizeRw", 0), DIGITS)}
        for container in used["Containers"] or []
    ]
    volumes = [
        {"Name": volume.get("Name", ""), "Links": str(_links(volume)), "Size": human_size(_size(volume), DIGITS)}
        for volume in used["Volumes"] or []
    ]
    return "\n\n".join(
        f"{title} space usage:\n\n{listing(rows, headers, columns, None)}"
        for title, rows, headers, columns in (
            ("Images", images, IMAGE_HEADERS, IMAGE_COLUMNS),
            ("Containers", containers, CONTAINER_HEADERS, CONTAINER_COLUMNS),
            ("Local Volumes", volumes, VOLUME_HEADERS, tuple(VOLUME_HEADERS)),
        )
    )


def _links(volume: "Volume") -> int:
    return (volume.get("UsageData") or {}).get("RefCount", 0)


def _size(volume: "Volume") -> int:
    return max((volume.get("UsageData") or {}).get("Size", 0), 0)
