"""The endpoints of networks (Docker Engine API reference, `/networks`)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from atoll.client.client import Client
from atoll.client.containers import encode_filters
from atoll.client.http import Response

if TYPE_CHECKING:
    from atoll.client.shapes import Network, Object, Pruned


def list_networks(client: Client, filters: Mapping[str, Sequence[str]]) -> "list[Network]":
    """The networks that are there."""
    return cast("list[Network]", client.get("/networks", {"filters": encode_filters(filters)}))


def create(client: Client, body: "Object") -> str:
    """A new network; its id."""
    return cast("dict[str, str]", client.post("/networks/create", body=body))["Id"]


def inspect(client: Client, network: str) -> "Object":
    """All about a network."""
    return cast("Object", client.get(_path(network)))


def remove(client: Client, network: str) -> None:
    """Remove a network that nobody is on."""
    client.delete(_path(network))


def connect(client: Client, network: str, container: str, endpoint: "Object") -> None:
    """Put a container on a network; `endpoint` says how, as `EndpointsConfig` does."""
    client.post(_path(network, "/connect"), body={"Container": container, "EndpointConfig": endpoint})


def disconnect(client: Client, network: str, container: str, *, force: bool) -> None:
    """Take a container off a network."""
    client.post(_path(network, "/disconnect"), body={"Container": container, "Force": force})


def prune(client: Client, filters: Mapping[str, Sequence[str]]) -> "Pruned":
    """Remove what no container uses."""
    return cast("Pruned", client.post("/networks/prune", {"filters": encode_filters(filters)}))


def trace(client: Client, network: str) -> Response:
    """What goes over a network, as a pcap file that has no end."""
    return client.request("GET", f"/atoll{_path(network, '/trace')}")


def _path(network: str, verb: str = "") -> str:
    return f"/networks/{quote(network, safe='')}{verb}"
