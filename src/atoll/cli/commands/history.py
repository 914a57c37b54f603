"""`atoll history`: how an image's layers came to be."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.ps import SHORT_ID
from atoll.cli.flags import switch
from atoll.cli.listing import FORMAT, listing
from atoll.cli.session import Session
from atoll.cli.values.sizes import human_size
from atoll.cli.values.times import human_duration
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import HistoryStep

HEADERS = {
    "ID": "IMAGE",
    "CreatedSince": "CREATED",
    "CreatedAt": "CREATED AT",
    "CreatedBy": "CREATED BY",
    "Size": "SIZE",
    "Comment": "COMMENT",
}
COLUMNS = ("ID", "CreatedSince", "CreatedBy", "Size", "Comment")
_CREATED_BY_LENGTH = 45


@verb(
    "history",
    "IMAGE",
    help="Show the history of an image",
    at_least=1,
    at_most=1,
    aliases=("atoll image history", "atoll history"),
)
@FORMAT
@switch("-H", "--human", default=True, help="Print sizes and dates in human readable format")
@switch("--no-trunc", help="Don't truncate output")
@switch("-q", "--quiet", help="Only show image IDs")
def history(
    session: Session, format: str | None, human: bool, no_trunc: bool, quiet: bool, arguments: Sequence[str]
) -> None:
    """List the steps that made an image, the last one first."""
    from atoll.client import images

    steps = images.history(session.client, arguments[0])
    if quiet and not format:
        format = "{{.ID}}"
    columns = COLUMNS if human else tuple("CreatedAt" if name == "CreatedSince" else name for name in COLUMNS)
    text = listing([_row(step, human=human, truncate=not no_trunc) for step in steps], HEADERS, columns, format)
    if text or steps:
        session.print(text)


def _row(step: "HistoryStep", *, human: bool, truncate: bool) -> dict[str, str]:
    created, size = step.get("Created", 0), step.get("Size", 0)
    created_by = step.get("CreatedBy", "").replace("\t", " ")
    if truncate and len(created_by) > _CREATED_BY_LENGTH:
        created_by = created_by[: _CREATED_BY_LENGTH - 1] + "…"
    return {
        "ID": step["Id"].removeprefix("sha256:")[:SHORT_ID] if truncate and step["Id"] != "<missing>" else step["Id"],
        "CreatedSince": f"{human_duration(time.time() - created)} ago" if created else "N/A",
        "CreatedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(created)),
        "CreatedBy": created_by,
        "Size": human_size(size) if human else str(size),
        "Comment": step.get("Comment", ""),
    }
