"""Routes of volumes. Source: Docker Engine API reference, version 1.47, "Volumes"."""

import asyncio

from aiohttp import web

from atoll.api.human import timestamp
from atoll.api.listing import decode_filters, label_fits
from atoll.api.requests import answer, body_of, engine_of, flag, nothing
from atoll.api.schemas import VolumeBody
from atoll.engine.engine import Engine
from atoll.engine.volume import Volume
from atoll.errors import AtollError, InvalidRequest, Unsupported

_YES, _NO = ("true", "1"), ("false", "0")


async def list_volumes(request: web.Request) -> web.Response:
    """All volumes, by name."""
    engine = engine_of(request)
    filters = decode_filters(request.query.get("filters"), ("dangling", "driver", "label", "name"))
    for value in filters.get("dangling", ()):
        if value not in (*_YES, *_NO):
            raise InvalidRequest(f"invalid filter 'dangling={value}'")
    rows = [volume_json(engine, volume) for volume in engine.volumes if _fits(engine, volume, filters)]
    return answer({"Volumes": rows, "Warnings": None})


async def create(request: web.Request) -> web.Response:
    """Make a volume, or find that of this name."""
    engine, body = engine_of(request), await body_of(request, VolumeBody)
    if (body.driver or "local") != "local":
        raise Unsupported(f"atoll does not have the volume driver '{body.driver}': it has local")
    creating = engine.volumes.create(
        body.name or None, body.driver_opts or {}, body.labels or {}, is_anonymous=not body.name
    )
    volume = await engine.tasks.finish(creating, "creation of a volume")
    return answer(volume_json(engine, volume), status=201)


async def inspect(request: web.Request) -> web.Response:
    """All about a volume."""
    engine = engine_of(request)
    return answer(volume_json(engine, engine.volumes.get(request.match_info["name"])))


async def remove(request: web.Request) -> web.Response:
    """Remove a volume with its data."""
    engine, name = engine_of(request), request.match_info["name"]
    removing = engine.volumes.remove(name, force=flag(request, "force"))
    await engine.tasks.finish(removing, f"removal of volume {name}")
    return nothing()


async def prune(request: web.Request) -> web.Response:
    """Remove the volumes that no container uses: those without a name, or with the filter `all` every one."""
    engine = engine_of(request)
    filters = decode_filters(request.query.get("filters"), ("all", "label", "label!"))
    everything = any(value in _YES for value in filters.get("all", ()))
    deleted, freed = [], 0
    for volume in list(engine.volumes):
        wanted = all(label_fits(label, volume.labels) for label in filters.get("label", ()))
        spared = any(label_fits(label, volume.labels) for label in filters.get("label!", ()))
        if engine.volumes.users(volume.name) or not wanted or spared or not (everything or volume.is_anonymous):
            continue
        used_bytes = await asyncio.to_thread(engine.volumes.used_bytes, volume)
        try:
            await engine.tasks.finish(engine.volumes.remove(volume.name), f"removal of volume {volume.name}")
        except AtollError:
            continue  # somebody else was faster, or has taken it
        freed += used_bytes
        deleted.append(volume.name)
    return answer({"VolumesDeleted": deleted, "SpaceReclaimed": freed})


def volume_json(engine: Engine, volume: Volume) -> dict[str, object]:
    """A volume in Docker's words."""
    labels = {**volume.labels, **({"com.docker.volume.anonymous": ""} if volume.is_anonymous else {})}
    return {
        "CreatedAt": timestamp(volume.created_at),
        "Driver": "local",
        "Labels": labels or None,
        "Mountpoint": str(engine.volumes.directory(volume)),
        "Name": volume.name,
        "Options": volume.options or None,
        "Scope": "local",
    }


def _fits(engine: Engine, volume: Volume, filters: dict[str, list[str]]) -> bool:
    is_dangling = not engine.volumes.users(volume.name)
    return (
        all((value in _YES) == is_dangling for value in filters.get("dangling", ()))
        and any(driver == "local" for driver in filters.get("driver", ("local",)))
        and all(label_fits(label, volume.labels) for label in filters.get("label", ()))
        and any(part in volume.name for part in filters.get("name", ("",)))
    )


ROUTES = (
    ("GET", "/volumes", list_volumes),
    ("POST", "/volumes/create", create),
    ("POST", "/volumes/prune", prune),
    ("GET", "/volumes/{name}", inspect),
    ("DELETE", "/volumes/{name}", remove),
)
