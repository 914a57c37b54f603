"""`atoll container prune`, `atoll image prune` and `atoll system prune`: what nobody uses goes, after a question."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.confirm import confirm
from atoll.cli.errors import Failure
from atoll.cli.flags import switch
from atoll.cli.listing import Filters, collect, filters_flag
from atoll.cli.session import Session
from atoll.cli.values.sizes import human_size
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.client.shapes import Pruned

FORCE = switch("-f", "--force", help="Do not prompt for confirmation")
ALL_IMAGES = switch("-a", "--all", "everything", help="Remove all unused images, not just dangling ones")
_DANGLING = "all dangling images"
_UNUSED = "all images without at least one container associated to them"


@verb("prune", help="Remove all stopped containers", at_most=0)
@filters_flag(help='Provide filter values (e.g. "until=<timestamp>")')
@FORCE
def containers(session: Session, filters: Filters, force: bool, arguments: Sequence[str]) -> None:
    """Remove the containers that do not run."""
    from atoll.client import containers as endpoints

    if force or confirm("WARNING! This will remove all stopped containers."):
        pruned = endpoints.prune(session.client, collect(filters))
        _show(session, "Deleted Containers", pruned["ContainersDeleted"] or (), pruned["SpaceReclaimed"])


@verb("prune", help="Remove unused images", at_most=0)
@ALL_IMAGES
@filters_flag(help='Provide filter values (e.g. "until=<timestamp>")')
@FORCE
def images(session: Session, everything: bool, filters: Filters, force: bool, arguments: Sequence[str]) -> None:
    """Remove the images that no container was made of."""
    from atoll.client import images as endpoints

    if force or confirm(f"WARNING! This will remove {_UNUSED if everything else _DANGLING}."):
        pruned = endpoints.prune(session.client, _with_dangling(filters, everything))
        _show(session, "Deleted Images", _image_lines(pruned), pruned["SpaceReclaimed"])


@verb("prune", help="Remove unused data", at_most=0)
@ALL_IMAGES
@filters_flag(help='Provide filter values (e.g. "label=<key>=<value>")')
@FORCE
@switch("--volumes", help="Prune anonymous volumes")
def system(
    session: Session, everything: bool, filters: Filters, force: bool, volumes: bool, arguments: Sequence[str]
) -> None:
    """Remove stopped containers, unused networks, with `--volumes` unused volumes, and unused images."""
    from atoll.client import containers as container_endpoints
    from atoll.client import images as image_endpoints
    from atoll.client import networks as network_endpoints
    from atoll.client import volumes as volume_endpoints

    if volumes and any(name == "until" for name, _ in filters):
        raise Failure('ERROR: The "until" filter is not supported with "--volumes"')
    doomed = ["all stopped containers", "all networks not used by at least one container"]
    doomed += ["all anonymous volumes not used by at least one container"] if volumes else []
    doomed += [_UNUSED if everything else _DANGLING]
    question = "WARNING! This will remove:\n" + "\n".join(f"  - {what}" for what in doomed)
    if filters:
        shown = "\n".join(f"  - {name}={value}" for name, value in sorted(filters))
        question += f"\n\n  Items to be pruned will be filtered with:\n{shown}"
    if not force and not confirm(question + "\n"):
        return
    client, wanted = session.client, collect(filters)
    pruned = container_endpoints.prune(client, wanted)
    freed = pruned["SpaceReclaimed"]
    _list(session, "Deleted Containers", pruned["ContainersDeleted"] or ())
    _list(session, "Deleted Networks", network_endpoints.prune(client, wanted).get("NetworksDeleted") or ())
    if volumes:
        pruned = volume_endpoints.prune(client, wanted)
        freed += pruned["SpaceReclaimed"]
        _list(session, "Deleted Volumes", pruned["VolumesDeleted"] or ())
    pruned = image_endpoints.prune(client, _with_dangling(filters, everything))
    _show(session, "Deleted Images", _image_lines(pruned), freed + pruned["SpaceReclaimed"])


def _with_dangling(filters: Filters, everything: bool) -> dict[str, list[str]]:
    return {**collect(filters), "dangling": ["false" if everything else "true"]}


def _image_lines(pruned: "Pruned") -> list[str]:
    return [
        f"deleted: {entry['Deleted']}" if "Deleted" in entry else f"untagged: {entry['Untagged']}"
        for entry in pruned["ImagesDeleted"] or ()
    ]


def _show(session: Session, title: str, lines: Sequence[str], freed_bytes: int) -> None:
    _list(session, title, lines)
    session.print(f"Total reclaimed space: {human_size(freed_bytes, 4)}")


def _list(session: Session, title: str, lines: Sequence[str]) -> None:
    if lines:
        session.print("\n".join([f"{title}:", *lines, ""]))
