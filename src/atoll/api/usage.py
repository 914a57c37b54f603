"""Routes about room on the disk: what takes it, and making some."""

import asyncio

from aiohttp import web

from atoll.api.containers import container_sizes
from atoll.api.images import created_s, image_row
from atoll.api.inspect import container_row
from atoll.api.prune_filters import PruneFilter
from atoll.api.requests import answer, engine_of
from atoll.api.volumes import volume_json
from atoll.engine.engine import Engine
from atoll.engine.volume import Volume
from atoll.errors import InvalidRequest
from atoll.image import Image

_TYPES = ("container", "image", "volume", "build-cache")


async def usage(request: web.Request) -> web.Response:
    """What containers, images and volumes take; `type` asks for some of it."""
    engine = engine_of(request)
    types = request.query.getall("type", list(_TYPES))
    for kind in types:
        if kind not in _TYPES:
            raise InvalidRequest(f"unknown object type: {kind}")
    found: dict[str, object] = {
        "LayersSize": 0,
        "Images": None,
        "Containers": None,
        "Volumes": None,
        "BuildCache": None,
    }
    if "image" in types:
        used = engine.images.content.upkeep.usage()
        images = await engine.images.content.list()
        rows = [image_row(image, created_s(image), len(engine.images.users(image.id))) for image in images]
        for row, image in zip(rows, images, strict=True):
            row |= {"Size": used.image_bytes(image.id), "SharedSize": used.shared_bytes(image.id)}
        found |= {"LayersSize": used.total_bytes, "Images": rows}
    if "container" in types:
        found["Containers"] = await _containers(engine)
    if "volume" in types:
        found["Volumes"] = [await _volume_row(engine, volume) for volume in engine.volumes]
    if "build-cache" in types:
        found |= {"BuildCache": [], "BuilderSize": 0}
    return answer(found)


async def _containers(engine: Engine) -> list[object]:
    return [
        container_row(
            container.record,
            engine.volumes,
            engine.networks.get,
            await engine.images.shown_name(container),
            await container_sizes(engine, container),
        )
        for container in engine.containers
    ]


async def _volume_row(engine: Engine, volume: Volume) -> dict[str, object]:
    used_bytes = await asyncio.to_thread(engine.volumes.used_bytes, volume)
    usage_data = {"Size": used_bytes, "RefCount": len(engine.volumes.users(volume.name))}
    return {**volume_json(engine, volume), "UsageData": usage_data}


async def prune_images(request: web.Request) -> web.Response:
    """Remove images that no container was made of: those without a name, with `dangling=false` all."""
    engine = engine_of(request)
    chosen = PruneFilter(request.query.get("filters"), "dangling")
    dangling = [value.lower() in ("1", "true") for value in chosen.values.get("dangling", ())]

    def wanted(image: Image) -> bool:
        return chosen.takes(created_s(image), image.config.execution.labels or {})

    pruning = engine.images.prune(wanted, dangling=all(dangling))
    removed, freed = await engine.tasks.finish(pruning, "removal of unused images")
    return answer({"ImagesDeleted": removed or None, "SpaceReclaimed": freed})


async def prune_networks(request: web.Request) -> web.Response:
    """There are no networks; `docker system prune` asks for their removal, too."""
    return answer({"NetworksDeleted": None})


async def prune_builds(request: web.Request) -> web.Response:
    """Nothing is built here, and nothing left of it; `docker system prune` asks for that, too."""
    return answer({"CachesDeleted": None, "SpaceReclaimed": 0})


ROUTES = (
    ("GET", "/system/df", usage),
    ("POST", "/images/prune", prune_images),
    ("POST", "/networks/prune", prune_networks),
    ("POST", "/build/prune", prune_builds),
)
