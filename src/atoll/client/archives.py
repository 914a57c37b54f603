"""The endpoints that move files, as functions (Docker Engine API reference: archive, export, changes, commit)."""

import base64
import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client
from atoll.client.http import Response
from atoll.errors import AtollError

if TYPE_CHECKING:
    from atoll.client.shapes import Change, PathStat

_TAR = {"Content-Type": "application/x-tar"}
_STAT_HEADER = "x-docker-container-path-stat"


def stat_path(client: Client, container: str, path: str) -> "PathStat":
    """What a path of a container is; 404 when it is not there."""
    response = client.request("HEAD", _path(container, "archive"), {"path": path})
    response.read()
    return _stat_of(response)


def read(client: Client, container: str, path: str) -> "tuple[PathStat, Response]":
    """A path of a container and all below it: what it is, and a tar."""
    response = client.request("GET", _path(container, "archive"), {"path": path})
    return _stat_of(response), response


def write(client: Client, container: str, path: str, archive: Iterable[bytes], *, with_owners: bool) -> None:
    """Extract a tar into a directory of a container; what is a directory stays one, what is none becomes none."""
    query: dict[str, str | int | bool | None] = {
        "path": path,
        "noOverwriteDirNonDir": True,
        "copyUIDGID": with_owners or None,
    }
    client.request("PUT", _path(container, "archive"), query, upload=archive, headers=_TAR).read()


def export(client: Client, container: str) -> Response:
    """A container's whole root as a tar."""
    return client.request("GET", _path(container, "export"))


def changes(client: Client, container: str) -> "list[Change]":
    """What a container has changed since its image."""
    return cast("list[Change] | None", client.get(_path(container, "changes"))) or []


def commit(
    client: Client,
    container: str,
    *,
    repository: str,
    tag_name: str,
    author: str,
    message: str,
    changes: Sequence[str],
    pause: bool,
) -> str:
    """Make an image of a container; its id."""
    query: list[tuple[str, str | int | bool | None]] = [
        ("container", container),
        ("repo", repository or None),
        ("tag", tag_name or None),
        ("author", author or None),
        ("comment", message or None),
        ("pause", pause),
        *(("changes", change) for change in changes),
    ]
    return cast("dict[str, str]", client.post("/commit", query))["Id"]


def _stat_of(response: Response) -> "PathStat":
    header = next((value for name, value in response.headers.items() if name.lower() == _STAT_HEADER), "")
    try:
        return cast("PathStat", json.loads(base64.b64decode(header)))
    except ValueError as error:
        raise AtollError(f"the engine did not say what the path is: {error}") from error


def _path(container: str, verb: str) -> str:
    return f"/containers/{quote(container, safe='')}/{verb}"
