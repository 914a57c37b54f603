"""Routes of images: what is here, and bringing it here.

What takes long answers with lines of JSON while it goes on; an error after the first line is a line, too, as the
status was sent already.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import msgspec
from aiohttp import web

from atoll.api.listing import decode_filters, image_name_fits, label_fits
from atoll.api.registry import all_credentials_of, credentials_of, scheme_of
from atoll.api.requests import answer, engine_of, flag, uploaded
from atoll.engine.engine import Engine
from atoll.errors import AtollError, InvalidRequest, NotFound, Unsupported
from atoll.image import Image, Reference

_KNOWN = ("dangling", "reference", "label", "before", "since", "until")

Line = dict[str, object]
Report = Callable[[Line], None]


async def list_images(request: web.Request) -> web.Response:
    """Images, newest first."""
    engine = engine_of(request)
    filters = decode_filters(request.query.get("filters"), _KNOWN)
    images = await engine.images.content.list()
    created = {image.id: created_s(image) for image in images}
    before = [created[(await _find(engine, name)).id] for name in filters.get("before", ())]
    since = [created[(await _find(engine, name)).id] for name in filters.get("since", ())]
    rows = []
    for image in sorted(images, key=lambda image: created[image.id], reverse=True):
        dangling = "false" if image.repo_tags else "true"
        labels = dict(image.config.execution.labels or {})
        wanted = (
            all(value.lower() in (dangling, str(int(dangling == "true"))) for value in filters.get("dangling", ()))
            and any(image_name_fits(pattern, image.repo_tags) for pattern in filters.get("reference", ("*",)))
            and all(label_fits(label, labels) for label in filters.get("label", ()))
            and all(created[image.id] < moment for moment in before)
            and all(created[image.id] > moment for moment in since)
        )
        if wanted or (not filters and not image.repo_tags):
            row = image_row(image, created[image.id], len(engine.images.users(image.id)))
            if patterns := filters.get("reference"):
                row["RepoTags"] = [
                    tag for tag in image.repo_tags if any(image_name_fits(one, [tag]) for one in patterns)
                ]
            rows.append(row)
    return answer(rows)


async def inspect(request: web.Request) -> web.Response:
    """All about an image."""
    return answer(_image_json(await _find(engine_of(request), request.match_info["name"])))


async def history(request: web.Request) -> web.Response:
    """How an image's layers came to be, newest first."""
    image = await _find(engine_of(request), request.match_info["name"])
    sizes = iter([layer.size_bytes for layer in image.layers])
    rows: list[Line] = [
        {
            "Id": "<missing>",
            "Created": _seconds(step.created),
            "CreatedBy": step.created_by,
            "Tags": None,
            "Size": 0 if step.empty_layer else next(sizes, 0),
            "Comment": step.comment,
        }
        for step in image.config.history or ()
    ]
    rows.reverse()
    if rows:
        rows[0] |= {"Id": image.id, "Tags": list(image.repo_tags) or None}
    return answer(rows)


async def tag(request: web.Request) -> web.Response:
    """Give an image one more name."""
    repository = request.query.get("repo", "")
    if not repository:
        raise InvalidRequest("a repository is needed to tag an image")
    name = f"{repository}:{request.query.get('tag') or 'latest'}"
    engine = engine_of(request)
    image = await _find(engine, request.match_info["name"])
    await engine.images.tag(image.id, name)
    return web.Response(status=201)


async def remove(request: web.Request) -> web.Response:
    """Take a name away, and the image with its last."""
    engine, name = engine_of(request), request.match_info["name"]
    await _find(engine, name)
    removing = engine.images.remove(name, flag(request, "force"))
    return answer(await engine.tasks.finish(removing, f"removal of image {name}"))


async def create(request: web.Request) -> web.StreamResponse:
    """Pull an image from a registry, or import a root filesystem (`fromSrc=-`)."""
    if request.query.get("fromImage"):
        return await _pull(request)
    if request.query.get("fromSrc"):
        return await _import(request)
    raise InvalidRequest("an image is created fromImage (pull) or fromSrc (import)")


async def _pull(request: web.Request) -> web.StreamResponse:
    engine, query = engine_of(request), request.query
    name, wanted = query["fromImage"], query.get("tag", "")
    if wanted:
        name += f"@{wanted}" if ":" in wanted else f":{wanted}"
    platform = query.get("platform") or None
    scheme, credentials = scheme_of(request), all_credentials_of(request, name)
    is_whole = not Reference.parse(name).tag and "@" not in name
    content = engine.images.content

    async def pull(report: Report) -> None:
        tags = await engine.images.tags(name, scheme, credentials) if is_whole else [None]
        for tag in tags:
            full = name if tag is None else f"{name}:{tag}"
            await content.pull(full, platform, report, scheme=scheme, credentials=credentials)
            engine.images.publish("pull", full, full)

    return await _reporting(request, pull)


async def push(request: web.Request) -> web.StreamResponse:
    """Put an image into its registry; without a tag, all that have the name."""
    engine, name = engine_of(request), request.match_info["name"]
    if wanted := request.query.get("tag", ""):
        name += f":{wanted}"
    scheme, credentials = scheme_of(request), credentials_of(request)

    async def push(report: Report) -> None:
        await engine.images.content.push(name, report, scheme=scheme, credentials=credentials)
        engine.images.publish("push", name, name)

    return await _reporting(request, push)


async def _import(request: web.Request) -> web.StreamResponse:
    engine, query = engine_of(request), request.query
    if query["fromSrc"] != "-":
        raise Unsupported("atoll does not import from a URL: fetch it, and import it from standard input")
    name = query.get("repo") or None
    if name is not None and query.get("tag"):
        name += f":{query['tag']}"
    changes = query.getall("changes", [])

    async def import_(report: Report) -> None:
        image = await engine.images.content.import_(uploaded(request), name, changes)
        engine.images.publish("import", image.id, name or image.id)
        report({"status": image.id})

    return await _reporting(request, import_)


async def load(request: web.Request) -> web.StreamResponse:
    """Store the images of an archive."""
    engine = engine_of(request)

    async def load(report: Report) -> None:
        for name in await engine.images.content.load(uploaded(request)):
            kind = "Loaded image ID" if name.startswith("sha256:") else "Loaded image"
            engine.images.publish("load", name, name)
            report({"stream": f"{kind}: {name}\n"})

    return await _reporting(request, load)


async def _reporting(request: web.Request, work: Callable[[Report], Awaitable[None]]) -> web.StreamResponse:
    """Do `work`, sending what it reports line by line; an error before the first line is an ordinary one.

    A client that hangs up cancels the work: nothing half done is kept.
    """
    lines: asyncio.Queue[Line | None] = asyncio.Queue()
    response = web.StreamResponse(headers={"Content-Type": "application/json"})

    async def send() -> None:
        while (line := await lines.get()) is not None:
            if not response.prepared:
                await response.prepare(request)
            await response.write(msgspec.json.encode(line) + b"\r\n")

    sending = asyncio.create_task(send())
    try:
        try:
            await work(lines.put_nowait)
        except AtollError as error:
            if lines.empty() and not response.prepared:
                raise
            lines.put_nowait({"errorDetail": {"message": str(error)}, "error": str(error)})
        lines.put_nowait(None)
        await sending
    finally:
        sending.cancel()
    if not response.prepared:
        await response.prepare(request)
    return response


async def _find(engine: Engine, name: str) -> Image:
    try:
        return await engine.images.content.get(name)
    except NotFound:
        raise NotFound(f"No such image: {name}") from None


def image_row(image: Image, created: int, containers: int) -> Line:
    """One row of the list, for an image that so many containers were made of."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Created": created,
        "Size": image.size_bytes,
        "SharedSize": -1,
        "Labels": dict(image.config.execution.labels or {}) or None,
        "Containers": containers,
    }


def _image_json(image: Image) -> Line:
    config = image.config
    return {
        "Id": image.id,
        "RepoTags": list(image.repo_tags),
        "RepoDigests": list(image.repo_digests),
        "Parent": "",
        "Comment": next((step.comment for step in reversed(config.history or ()) if step.comment), ""),
        "Created": config.created or "",
        "DockerVersion": "",
        "Author": config.author,
        "Config": _execution_json(image),
        "Architecture": config.architecture,
        "Variant": config.variant,
        "Os": config.os,
        "Size": image.size_bytes,
        "GraphDriver": {"Name": "squashfs", "Data": {}},
        "RootFS": {"Type": "layers", "Layers": list(config.diff_ids)},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def _execution_json(image: Image) -> Line:
    execution = image.config.execution
    shown: Line = {
        "Hostname": "",
        "Domainname": "",
        "User": execution.user,
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": execution.env,
        "Cmd": execution.cmd,
        "Image": "",
        "Volumes": execution.volumes,
        "WorkingDir": execution.working_dir,
        "Entrypoint": execution.entrypoint,
        "OnBuild": execution.on_build,
        "Labels": execution.labels,
    }
    if execution.exposed_ports:
        shown["ExposedPorts"] = execution.exposed_ports
    if execution.stop_signal:
        shown["StopSignal"] = execution.stop_signal
    return shown


def created_s(image: Image) -> int:
    """When the image was made, in seconds since the epoch; 0 when it does not say."""
    return _seconds(image.config.created)


def _seconds(created: str | None) -> int:
    """Seconds since the epoch of a time as a builder wrote it; 0 when it cannot be read."""
    if not created:
        return 0
    try:
        moment = msgspec.convert(created, datetime)
    except msgspec.ValidationError:
        return 0
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp())


ROUTES = (
    ("GET", "/images/json", list_images),
    ("POST", "/images/create", create),
    ("POST", "/images/load", load),
    ("GET", "/images/{name:.+}/json", inspect),
    ("GET", "/images/{name:.+}/history", history),
    ("POST", "/images/{name:.+}/push", push),
    ("POST", "/images/{name:.+}/tag", tag),
    ("DELETE", "/images/{name:.+}", remove),
)
