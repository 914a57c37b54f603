"""`atoll volume create|ls|rm|prune` (`inspect.py` shows one)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.confirm import confirm
from atoll.cli.flags import LIST, Kind, flag, switch
from atoll.cli.listing import FORMAT, Filters, collect, filters_flag, listing
from atoll.cli.session import Session
from atoll.cli.several import each
from atoll.cli.values.environment import key_values, parse_label
from atoll.cli.values.sizes import human_size
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client import Client
    from atoll.client.shapes import Volume

HEADERS = {
    "Name": "VOLUME NAME",
    "Driver": "DRIVER",
    "Scope": "SCOPE",
    "Mountpoint": "MOUNTPOINT",
    "Labels": "LABELS",
    "Links": "LINKS",
    "Size": "SIZE",
}
COLUMNS = ("Driver", "Name")


@verb("create", "[VOLUME]", help="Create a volume", at_most=1)
@flag("-d", "--driver", default="local", help="Specify volume driver name")
@flag("--label", kind=Kind("list", parse_label), multiple=True, help="Set metadata for a volume")
@flag("-o", "--opt", kind=LIST, multiple=True, help="Set driver specific options: size=SIZE, shared")
@flag("-s", "--size", help="Size of the volume, as --opt size")
def create(
    session: Session,
    driver: str,
    label: Sequence[str],
    opt: Sequence[str],
    size: str | None,
    arguments: Sequence[str],
) -> None:
    """Make a volume and print its name."""
    from atoll.cli.errors import Failure
    from atoll.client import volumes

    if driver != "local":
        raise Failure(f"atoll does not have the volume driver '{driver}': it has local")
    options = key_values(opt) | ({"size": size} if size else {})
    session.print(volumes.create(session.client, next(iter(arguments), ""), options, key_values(label))["Name"])


@verb("ls", help="List volumes", at_most=0, aliases=("atoll volume ls", "atoll volume list"))
@filters_flag("-f", help='Provide filter values (e.g. "dangling=true")')
@FORMAT
@switch("-q", "--quiet", help="Only display volume names")
def ls(session: Session, filters: Filters, format: str | None, quiet: bool, arguments: Sequence[str]) -> None:
    """List the volumes."""
    from atoll.client import volumes

    found = volumes.list_volumes(session.client, collect(filters))
    if quiet and not format:
        format = "{{.Name}}"
    rows = [_row(volume) for volume in found]
    text = listing(rows, HEADERS, COLUMNS, format)
    if text or rows:
        session.print(text)


@verb(
    "rm",
    "VOLUME [VOLUME...]",
    help="Remove one or more volumes",
    at_least=1,
    aliases=("atoll volume rm", "atoll volume remove"),
)
@switch("-f", "--force", help="Force the removal of one or more volumes")
def rm(session: Session, force: bool, arguments: Sequence[str]) -> None:
    """Remove volumes with their data."""
    from atoll.client import volumes

    def act(client: "Client", name: str) -> None:
        volumes.remove(client, name, force=force)

    each(session, arguments, act)


@verb("prune", help="Remove unused local volumes", at_most=0)
@switch("-a", "--all", "everything", help="Remove all unused volumes, not just anonymous ones")
@filters_flag(help='Provide filter values (e.g. "label=<label>")')
@switch("-f", "--force", help="Do not prompt for confirmation")
def prune(session: Session, everything: bool, filters: Filters, force: bool, arguments: Sequence[str]) -> None:
    """Remove what no container uses."""
    from atoll.client import volumes

    wanted = collect(filters)
    if everything:
        wanted["all"] = ["true"]
    if not force:
        which = "all local" if everything else "anonymous local"
        if not confirm(f"WARNING! This will remove {which} volumes not used by at least one container."):
            return
    pruned = volumes.prune(session.client, wanted)
    if deleted := pruned.get("VolumesDeleted"):
        session.print("\n".join(["Deleted Volumes:", *deleted, ""]))
    session.print(f"Total reclaimed space: {human_size(pruned.get('SpaceReclaimed', 0))}")


def _row(volume: "Volume") -> dict[str, str]:
    labels = volume.get("Labels") or {}
    return {
        "Name": volume["Name"],
        "Driver": volume.get("Driver", ""),
        "Scope": volume.get("Scope", ""),
        "Mountpoint": volume.get("Mountpoint", ""),
        "Labels": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        "Links": "N/A",
        "Size": "N/A",
    }
