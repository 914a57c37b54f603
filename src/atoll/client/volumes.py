"""The endpoints of volumes (Docker Engine API reference, `/volumes`)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client
from atoll.client.containers import encode_filters

if TYPE_CHECKING:
    from atoll.client.shapes import Object, Pruned, Volume


def list_volumes(client: Client, filters: Mapping[str, Sequence[str]]) -> "list[Volume]":
    """The volumes that are there, by name."""
    answer = cast("dict[str, list[Volume] | None]", client.get("/volumes", {"filters": encode_filters(filters)}))
    return answer["Volumes"] or []


def create(client: Client, name: str, options: Mapping[str, str], labels: Mapping[str, str]) -> "Volume":
    """A new volume, or that of this name; an empty name is one at random."""
    body: Object = {"Name": name, "Driver": "local", "DriverOpts": dict(options), "Labels": dict(labels)}
    return cast("Volume", client.post("/volumes/create", body=body))


def inspect(client: Client, name: str) -> "Object":
    """All about a volume."""
    return cast("Object", client.get(_path(name)))


def remove(client: Client, name: str, *, force: bool) -> None:
    """Remove with its data; `force`: no error when it is not there."""
    client.delete(_path(name), {"force": force or None})


def prune(client: Client, filters: Mapping[str, Sequence[str]]) -> "Pruned":
    """Remove what no container uses."""
    return cast("Pruned", client.post("/volumes/prune", {"filters": encode_filters(filters)}))


def _path(name: str) -> str:
    return f"/volumes/{quote(name, safe='')}"
