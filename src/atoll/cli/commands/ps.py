"""`atoll ps`: the containers."""

import time
from typing import TYPE_CHECKING

from atoll.cli.flags import INTEGER, flag, switch
from atoll.cli.listing import FORMAT, Filters, collect, filters_flag, listing, names_field
from atoll.cli.session import Session
from atoll.cli.table import ellipsis
from atoll.cli.values.ports import shown_ports
from atoll.cli.values.sizes import human_size
from atoll.cli.values.times import human_duration
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from atoll.client.shapes import ContainerSummary

HEADERS = {
    "ID": "CONTAINER ID",
    "Image": "IMAGE",
    "Command": "COMMAND",
    "CreatedAt": "CREATED AT",
    "RunningFor": "CREATED",
    "Ports": "PORTS",
    "State": "STATE",
    "Status": "STATUS",
    "Size": "SIZE",
    "Names": "NAMES",
    "Labels": "LABELS",
    "Mounts": "MOUNTS",
    "LocalVolumes": "LOCAL VOLUMES",
    "Networks": "NETWORKS",
}
COLUMNS = ("ID", "Image", "Command", "RunningFor", "Status", "Ports", "Names")
SHORT_ID = 12


@verb(
    "ps",
    help="List containers",
    at_most=0,
    aliases=("atoll container ls", "atoll container list", "atoll container ps", "atoll ps"),
)
@switch("-a", "--all", "everything", help="Show all containers (default shows just running)")
@filters_flag("-f")
@FORMAT
@flag("-n", "--last", kind=INTEGER, default=-1, help="Show n last created containers (includes all states)")
@switch("-l", "--latest", help="Show the latest created container (includes all states)")
@switch("--no-trunc", help="Don't truncate output")
@switch("-q", "--quiet", help="Only display container IDs")
@switch("-s", "--size", help="Display total file sizes")
def ps(
    session: Session,
    everything: bool,
    filters: Filters,
    format: str | None,
    last: int,
    latest: bool,
    no_trunc: bool,
    quiet: bool,
    size: bool,
    arguments: "Sequence[str]",
) -> None:
    """List containers."""
    from atoll.client import containers

    limit = 1 if latest else last
    found = containers.list_containers(
        session.client,
        everything=everything,
        limit=limit if limit > 0 else None,
        size=size or names_field(format, "Size"),
        filters=collect(filters),
    )
    if quiet and not format:
        format = "{{.ID}}"
    rows = [container_row(container, truncate=not no_trunc) for container in found]
    columns = (*COLUMNS, "Size") if size else COLUMNS
    text = listing(rows, HEADERS, columns, format)
    if text or rows:
        session.print(text)


def container_row(container: "ContainerSummary", *, truncate: bool) -> dict[str, str]:
    """The fields of a container as text."""
    image = container.get("Image") or "<no image>"
    command = container.get("Command", "")
    labels = container.get("Labels") or {}
    mounts = [mount.get("Name") or mount.get("Source", "") for mount in container.get("Mounts") or []]
    created = container.get("Created", 0)
    return {
        "ID": container["Id"][:SHORT_ID] if truncate else container["Id"],
        "Image": _short_image(image, container.get("ImageID", "")) if truncate else image,
        "Command": _quote(ellipsis(command, 20) if truncate else command),
        "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(created)),
        "RunningFor": f"{human_duration(time.time() - created)} ago",
        "Ports": shown_ports(container.get("Ports") or []),
        "State": container.get("State", ""),
        "Status": container.get("Status", ""),
        "Size": _size(container.get("SizeRw", 0), container.get("SizeRootFs", 0)),
        "Names": ",".join(name.removeprefix("/") for name in container.get("Names") or []),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Mounts": ",".join(ellipsis(mount, 15) if truncate else mount for mount in mounts),
        "LocalVolumes": str(sum(mount.get("Driver") == "local" for mount in container.get("Mounts") or [])),
        "Networks": ",".join((container.get("NetworkSettings") or {}).get("Networks") or {}),
    }


def _short_image(name: str, image_id: str) -> str:
    """An image shown by its id is shown by the short one."""
    if name == image_id or name.startswith("sha256:"):
        return name.removeprefix("sha256:")[:SHORT_ID]
    return name.partition("@")[0] or name


def _quote(text: str) -> str:
    """In quotes as Go writes strings."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
    body = "".join(escapes.get(letter) or (letter if letter.isprintable() else _escape(letter)) for letter in text)
    return f'"{body}"'


def _escape(letter: str) -> str:
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _size(writable: int, whole: int) -> str:
    return human_size(writable) + (f" (virtual {human_size(whole)})" if whole > 0 else "")
