"""Routes of containers: making, starting, ending, looking at them.

Source for all of it: Docker Engine API reference, version 1.47, "Containers".
"""

import asyncio
from collections.abc import Sequence
from typing import cast, get_args

import msgspec
from aiohttp import web

from atoll.api.container_config import container_config
from atoll.api.inspect import container_json, container_row
from atoll.api.listing import ContainerFilter, decode_filters
from atoll.api.prune_filters import PruneFilter
from atoll.api.requests import answer, body_of, container_of, engine_of, flag, nothing, whole_number
from atoll.api.schemas import ContainerBody
from atoll.api.top import process_table
from atoll.engine.bundle import WRITABLE
from atoll.engine.container import Container
from atoll.engine.engine import Engine
from atoll.engine.waiters import WaitCondition
from atoll.errors import AtollError, InvalidRequest, NotFound
from atoll.image import Image
from atoll.model.container import ContainerConfig, MountPoint


async def create(request: web.Request) -> web.Response:
    """Make a container."""
    engine, body = engine_of(request), await body_of(request, ContainerBody)
    if not body.image:
        raise InvalidRequest("config cannot be empty in order to create a container: it needs an image")
    image = await _image(engine, body.image)
    platform = request.query.get("platform") or None

    def configure(container_id: str) -> ContainerConfig:
        config = container_config(body, image, container_id, platform, mounts_of)
        _check_networks(engine, config)
        return config

    def mounts_of(reference: str) -> Sequence[MountPoint]:
        return engine.containers.get(reference).record.config.mounts

    name = request.query.get("name") or None
    container = await engine.tasks.finish(engine.create(name, configure), "creation of a container")
    return answer({"Id": container.id, "Warnings": []}, status=201)


def _check_networks(engine: Engine, config: ContainerConfig) -> None:
    """That they are there: a 404 would tell Docker's command that the image is missing, and it would pull it."""
    for wish in config.networks:
        try:
            engine.networks.get(wish.network)
        except NotFound as error:
            raise InvalidRequest(str(error)) from None


async def _image(engine: Engine, reference: str) -> Image:
    try:
        return await engine.images.content.get(reference)
    except NotFound:
        raise NotFound(f"No such image: {reference}") from None


async def start(request: web.Request) -> web.Response:
    """Start a container."""
    engine, container = engine_of(request), container_of(request)
    await engine.tasks.finish(container.start(), f"start of container {container.name}")
    return nothing()


async def stop(request: web.Request) -> web.Response:
    """Stop a container."""
    engine, container = engine_of(request), container_of(request)
    stopping = container.stop(whole_number(request, "t"), request.query.get("signal") or None)
    await engine.tasks.finish(stopping, f"stop of container {container.name}")
    return nothing()


async def restart(request: web.Request) -> web.Response:
    """Stop and start a container."""
    engine, container = engine_of(request), container_of(request)
    restarting = container.restart(whole_number(request, "t"), request.query.get("signal") or None)
    await engine.tasks.finish(restarting, f"restart of container {container.name}")
    return nothing()


async def kill(request: web.Request) -> web.Response:
    """Send a signal."""
    engine, container = engine_of(request), container_of(request)
    killing = container.kill(request.query.get("signal") or "SIGKILL")
    await engine.tasks.finish(killing, f"kill of container {container.name}")
    return nothing()


async def pause(request: web.Request) -> web.Response:
    """Freeze a container."""
    container = container_of(request)
    await engine_of(request).tasks.finish(container.pause(), f"pause of container {container.name}")
    return nothing()


async def unpause(request: web.Request) -> web.Response:
    """Let a container run on."""
    container = container_of(request)
    await engine_of(request).tasks.finish(container.unpause(), f"resumption of container {container.name}")
    return nothing()


async def rename(request: web.Request) -> web.Response:
    """Give a container another name."""
    container_of(request).rename(request.query.get("name", ""))
    return nothing()


async def remove(request: web.Request) -> web.Response:
    """Remove a container."""
    if flag(request, "link"):
        raise InvalidRequest("containers have no links that could be removed")
    engine, container = engine_of(request), container_of(request)
    removing = engine.remove(container, flag(request, "force"), with_volumes=flag(request, "v"))
    await engine.tasks.finish(removing, f"removal of container {container.name}")
    return nothing()


async def prune(request: web.Request) -> web.Response:
    """Remove the containers that do not run."""
    engine = engine_of(request)
    chosen = PruneFilter(request.query.get("filters"))
    deleted, freed = [], 0
    for container in list(engine.containers):
        record = container.record
        if record.has_vm or record.restarting or not chosen.takes(record.created_at.timestamp(), record.config.labels):
            continue
        freed += _written_bytes(engine, container)
        try:
            await engine.tasks.finish(engine.remove(container, False), f"removal of container {container.name}")
        except AtollError:
            continue  # somebody else was faster
        deleted.append(container.id)
    return answer({"ContainersDeleted": deleted, "SpaceReclaimed": freed})


async def wait(request: web.Request) -> web.StreamResponse:
    """Wait for a container's end; the head is sent at once, so that the client knows that we wait."""
    condition = request.query.get("condition") or "not-running"
    if condition not in get_args(WaitCondition):
        raise InvalidRequest(f'invalid condition: "{condition}"')
    future = container_of(request).wait(cast(WaitCondition, condition))
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    try:
        await response.prepare(request)
        code = await future
    finally:
        future.cancel()
    await response.write(msgspec.json.encode({"StatusCode": code, "Error": None}) + b"\n")
    return response


async def resize(request: web.Request) -> web.Response:
    """Set the size of a container's terminal."""
    rows, columns = whole_number(request, "h"), whole_number(request, "w")
    if rows is None or columns is None:
        raise InvalidRequest("a terminal's size is given with h and w")
    await container_of(request).runtime_for("resize").resize("init", rows, columns)
    return web.Response(status=200)


async def top(request: web.Request) -> web.Response:
    """The processes of a container."""
    container = container_of(request)
    processes = await container.runtime_for("top").processes()
    titles, rows = process_table(processes.rows, request.query.get("ps_args") or "-ef")
    container.publish("top")
    return answer({"Titles": titles, "Processes": rows})


async def inspect(request: web.Request) -> web.Response:
    """All about a container."""
    engine, container = engine_of(request), container_of(request)
    sizes = await container_sizes(engine, container) if flag(request, "size") else {}
    shown = container_json(
        container.record, engine.paths, engine.volumes, engine.networks.get, engine.execs.of(container), sizes
    )
    return answer(shown)


async def list_containers(request: web.Request) -> web.Response:
    """Containers, newest first."""
    engine = engine_of(request)
    filters = decode_filters(request.query.get("filters"), ContainerFilter.KNOWN)
    images = {reference: await _image_id(engine, reference) for reference in filters.get("ancestor", ())}
    chosen = ContainerFilter(filters, engine.containers.get, images.get, engine.networks.get)
    limit = whole_number(request, "limit") or 0
    everything = flag(request, "all") or limit > 0 or chosen.looks_at_stopped
    rows = []
    for container in engine.containers:
        record = container.record
        if not chosen.takes(record) or not (everything or record.is_running):
            continue
        sizes = await container_sizes(engine, container) if flag(request, "size") else {}
        image = await engine.images.shown_name(container)
        rows.append(container_row(record, engine.volumes, engine.networks.get, image, sizes))
        if len(rows) == limit:
            break
    return answer(rows)


async def _image_id(engine: Engine, reference: str) -> str | None:
    try:
        return (await engine.images.content.get(reference)).id
    except AtollError:
        return None


async def container_sizes(engine: Engine, container: Container) -> dict[str, int]:
    """Bytes of a container's writable layer on the host, and with its image."""
    written = await asyncio.to_thread(_written_bytes, engine, container)
    try:
        image = (await engine.images.content.get(container.record.config.image_id)).size_bytes
    except NotFound:
        image = 0
    return {"SizeRw": written, "SizeRootFs": image + written}


def _written_bytes(engine: Engine, container: Container) -> int:
    """What the writable layer takes on the host."""
    try:
        return (engine.paths.bundle(container.id) / WRITABLE).stat().st_blocks * 512
    except FileNotFoundError:
        return 0


ROUTES = (
    ("GET", "/containers/json", list_containers),
    ("POST", "/containers/create", create),
    ("POST", "/containers/prune", prune),
    ("GET", "/containers/{name}/json", inspect),
    ("GET", "/containers/{name}/top", top),
    ("POST", "/containers/{name}/start", start),
    ("POST", "/containers/{name}/stop", stop),
    ("POST", "/containers/{name}/restart", restart),
    ("POST", "/containers/{name}/kill", kill),
    ("POST", "/containers/{name}/pause", pause),
    ("POST", "/containers/{name}/unpause", unpause),
    ("POST", "/containers/{name}/rename", rename),
    ("POST", "/containers/{name}/resize", resize),
    ("POST", "/containers/{name}/wait", wait),
    ("DELETE", "/containers/{name}", remove),
)
