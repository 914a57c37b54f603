"""Routes of image archives on their way out; on their way in they are among `images.py`."""

import logging
from collections.abc import Sequence
from contextlib import aclosing

from aiohttp import web

from atoll.api.requests import engine_of
from atoll.errors import AtollError, InvalidRequest
from atoll.image import ArchiveFormat

log = logging.getLogger("atoll.api")


async def save_one(request: web.Request) -> web.StreamResponse:
    """An archive of the image that the path names."""
    return await _save(request, [request.match_info["name"]])


async def save_several(request: web.Request) -> web.StreamResponse:
    """An archive of the images that the query names."""
    names = request.query.getall("names", [])
    if not names:
        raise InvalidRequest("say which images to save, with names=")
    return await _save(request, names)


async def _save(request: web.Request, names: Sequence[str]) -> web.StreamResponse:
    """Send the archive; an error in the middle breaks the connection, so that nobody takes a part for the whole."""
    engine, wanted = engine_of(request), request.query.get("format", ArchiveFormat.BOTH.value)
    try:
        archive_format = ArchiveFormat(wanted)
    except ValueError:
        raise InvalidRequest(f"an archive's format is docker, oci or both, not {wanted!r}") from None
    response = web.StreamResponse(headers={"Content-Type": "application/x-tar"})
    async with aclosing(engine.images.content.save(names, archive_format)) as chunks:
        try:
            async for chunk in chunks:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(chunk)
        except AtollError as error:
            if not response.prepared:
                raise
            log.error("saving of %s ended early: %s", ", ".join(names), error)
            if request.transport is not None:
                request.transport.abort()
            return response
    for name in names:
        engine.images.publish("save", name, name)
    return response


ROUTES = (
    ("GET", "/images/get", save_several),
    ("GET", "/images/{name:.+}/get", save_one),
)
