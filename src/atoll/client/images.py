"""The endpoints of images, as functions (Docker Engine API reference, `/images`).

What takes long answers in lines of progress, each a JSON object; a line with `error` is the end of it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client, EngineError
from atoll.client.containers import encode_filters
from atoll.client.http import Response

if TYPE_CHECKING:
    from atoll.client.shapes import HistoryStep, ImageSummary, Object, ProgressLine, Pruned, Removed


def list_images(
    client: Client, *, everything: bool = False, digests: bool = False, filters: Mapping[str, Sequence[str]]
) -> "list[ImageSummary]":
    """The images that are here."""
    query = {"all": everything or None, "digests": digests or None, "filters": encode_filters(filters)}
    return cast("list[ImageSummary]", client.get("/images/json", query))


def inspect(client: Client, image: str) -> "Object":
    """All about an image."""
    return cast("Object", client.get(_path(image, "json")))


def history(client: Client, image: str) -> "list[HistoryStep]":
    """How its layers came to be, the last step first."""
    return cast("list[HistoryStep]", client.get(_path(image, "history")))


def tag(client: Client, image: str, repository: str, tag_name: str) -> None:
    """Give another name."""
    client.post(_path(image, "tag"), {"repo": repository, "tag": tag_name})


def remove(client: Client, image: str, *, force: bool, prune: bool) -> "list[Removed]":
    """Take a name away, and the image with its last one; what was untagged and deleted."""
    query = {"force": force or None, "noprune": (not prune) or None}
    return cast("list[Removed]", client.delete(_path(image, ""), query))


def prune(client: Client, filters: Mapping[str, Sequence[str]]) -> "Pruned":
    """Remove images that nobody uses."""
    return cast("Pruned", client.post("/images/prune", {"filters": encode_filters(filters)}))


def pull(
    client: Client,
    repository: str,
    tag_name: str | None,
    *,
    platform: str | None,
    all_tags: bool = False,
    scheme: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> "Iterator[ProgressLine]":
    """Fetch an image from a registry; `headers` say who asks."""
    tag_wanted = None if all_tags else tag_name
    query = {"fromImage": repository, "tag": tag_wanted, "platform": platform, "scheme": scheme}
    return _progress(client.request("POST", "/images/create", query, headers=headers))


def push(
    client: Client, repository: str, tag_name: str | None, *, scheme: str | None, headers: Mapping[str, str]
) -> "Iterator[ProgressLine]":
    """Put an image into a registry, with all its tags there when `tag_name` is None; `headers` say who asks."""
    query = {"tag": tag_name, "scheme": scheme}
    return _progress(client.request("POST", _path(repository, "push"), query, headers=headers))


def load(client: Client, archive: Iterable[bytes], *, quiet: bool, platform: str | None) -> "Iterator[ProgressLine]":
    """Store the images of an archive as `docker save` or an OCI layout tar has them."""
    query = {"quiet": quiet, "platform": platform}
    headers = {"Content-Type": "application/x-tar"}
    return _progress(client.request("POST", "/images/load", query, upload=archive, headers=headers))


def save(client: Client, names: Sequence[str], *, archive_format: str | None) -> Iterator[bytes]:
    """An archive of images, as it comes; raises `Unavailable` when it breaks off."""
    query: list[tuple[str, str | int | bool | None]] = [("names", name) for name in names]
    response = client.request("GET", "/images/get", [*query, ("format", archive_format)])
    try:
        yield from response.chunks()
    finally:
        response.close()


def import_(
    client: Client,
    source: Iterable[bytes],
    *,
    repository: str,
    tag_name: str,
    changes: Sequence[str],
    message: str,
    platform: str | None,
) -> "Iterator[ProgressLine]":
    """Make an image of a root filesystem's tar; `changes` are Dockerfile instructions."""
    query: list[tuple[str, str | int | bool | None]] = [("fromSrc", "-"), ("repo", repository)]
    query += [("tag", tag_name)] if tag_name else []
    query += [("message", message)] if message else []
    query += [("platform", platform)] if platform else []
    query += [("changes", change) for change in changes]
    headers = {"Content-Type": "application/x-tar"}
    return _progress(client.request("POST", "/images/create", query, upload=source, headers=headers))


def _progress(response: Response) -> "Iterator[ProgressLine]":
    """The lines of progress; raises `EngineError` for a line that is an error."""
    try:
        for line in response.lines():
            progress = cast("ProgressLine", json.loads(line))
            if "error" in progress:
                raise EngineError(500, progress["error"])
            yield progress
    finally:
        response.close()


def _path(image: str, verb: str) -> str:
    # A name's slashes are part of the path in Docker's API.
    return f"/images/{quote(image, safe='/:@')}" + (f"/{verb}" if verb else "")
