"""Routes of networks. Source: Docker Engine API reference, version 1.47, "Networks".

`GET /atoll/networks/{name}/trace` is ours.
"""

from aiohttp import web

from atoll.api.endpoints import endpoint_id, network_wish, prefix_length
from atoll.api.human import timestamp
from atoll.api.listing import Filters, decode_filters, label_fits
from atoll.api.prune_filters import PruneFilter
from atoll.api.requests import answer, body_of, engine_of, nothing
from atoll.api.schemas import ConnectBody, DisconnectBody, NetworkBody, SubnetBody
from atoll.engine.container import Container
from atoll.engine.engine import Engine
from atoll.engine.network import PREDEFINED, NetworkRequest
from atoll.errors import InvalidRequest, NotFound, Unsupported
from atoll.model.network import Network, Subnet

_KNOWN = ("dangling", "driver", "id", "label", "name", "scope", "type")
_YES, _NO = ("true", "1"), ("false", "0")
_DRIVERS = {"host": "host", "null": "none"}


async def list_networks(request: web.Request) -> web.Response:
    """All networks, without who is on them."""
    engine = engine_of(request)
    filters = decode_filters(request.query.get("filters"), _KNOWN)
    for name, values in (("dangling", (*_YES, *_NO)), ("type", ("builtin", "custom"))):
        for value in filters.get(name, ()):
            if value not in values:
                raise InvalidRequest(f"invalid filter '{name}={value}'")
    found = (network for network in engine.networks.all() if _fits(engine, network, filters))
    return answer([network_json(network, {}) for network in found])


async def create(request: web.Request) -> web.Response:
    """Make a network."""
    engine, body = engine_of(request), await body_of(request, NetworkBody)
    creating = engine.networks.create(network_request(body))
    network = await engine.tasks.finish(creating, "creation of a network")
    return answer({"Id": network.id, "Warning": ""}, status=201)


async def inspect(request: web.Request) -> web.Response:
    """All about a network, with the containers that run on it."""
    engine, name = engine_of(request), request.match_info["name"]
    network = engine.networks.get(name)
    if request.query.get("scope", "local") not in ("", "local"):
        raise NotFound(f"network {name} not found")
    return answer(network_json(network, _containers_json(engine, network)))


async def remove(request: web.Request) -> web.Response:
    """Remove a network that nobody is on."""
    engine, name = engine_of(request), request.match_info["name"]
    await engine.tasks.finish(engine.networks.remove(name), f"removal of network {name}")
    return nothing()


async def connect(request: web.Request) -> web.Response:
    """Put a container on a network, at once if it runs."""
    engine, body = engine_of(request), await body_of(request, ConnectBody)
    container, name = _container(engine, body.container), request.match_info["name"]
    connecting = engine.networks.connect(name, container, network_wish(name, body.endpoint_config))
    await engine.tasks.finish(connecting, f"connection of container {container.name}")
    return web.Response(status=200)


async def disconnect(request: web.Request) -> web.Response:
    """Take a container off a network."""
    engine, body = engine_of(request), await body_of(request, DisconnectBody)
    container, name = _container(engine, body.container), request.match_info["name"]
    disconnecting = engine.networks.disconnect(name, container, bool(body.force))
    await engine.tasks.finish(disconnecting, f"disconnection of container {container.name}")
    return web.Response(status=200)


async def prune(request: web.Request) -> web.Response:
    """Remove the networks that no container is on, but those that are always there."""
    engine = engine_of(request)
    chosen = PruneFilter(request.query.get("filters"))

    def is_kept(network: Network) -> bool:
        return not chosen.takes(network.created_at.timestamp(), network.labels)

    pruned = await engine.tasks.finish(engine.networks.prune(is_kept), "removal of unused networks")
    return answer({"NetworksDeleted": [network.name for network in pruned]})


async def trace(request: web.Request) -> web.StreamResponse:
    """What goes over a network as a pcap file, for as long as the client listens; whole packets in each chunk."""
    packets = engine_of(request).networks.trace(request.match_info["name"])
    response = web.StreamResponse(headers={"Content-Type": "application/vnd.tcpdump.pcap"})
    try:
        # What begins the file comes first, so that a network without a segment is an error and no empty file.
        head = await anext(packets, b"")
        await response.prepare(request)
        await response.write(head)
        async for records in packets:
            await response.write(records)
    finally:
        await packets.aclose()
    return response


def network_request(body: NetworkBody) -> NetworkRequest:
    """What is asked for; raises `InvalidRequest`, `Unsupported`."""
    driver = body.driver or "bridge"
    if driver in _DRIVERS:
        raise InvalidRequest(f"only one instance of \"{driver}\" network is allowed: use '{_DRIVERS[driver]}'")
    if driver != "bridge":
        raise Unsupported(f"atoll does not have the network driver '{driver}': it has bridge")
    if body.enable_ipv4 is False:
        raise Unsupported("atoll does not have networks without IPv4")
    if body.ingress or body.config_only or (body.scope or "local") != "local":
        raise Unsupported("atoll does not have networks of several machines, or without containers")
    subnets = (body.ipam.config if body.ipam is not None else None) or []
    if body.ipam is not None and (body.ipam.driver or "default") != "default":
        raise Unsupported(f"atoll does not have the IPAM driver '{body.ipam.driver}': it has default")
    for subnet in subnets:
        if subnet.auxiliary_addresses:
            raise Unsupported("atoll does not have reserved addresses (--aux-address): use --ip-range")
    return NetworkRequest(
        name=body.name or "",
        driver=driver,
        internal=bool(body.internal),
        enable_ipv6=body.enable_ipv6,
        subnets=tuple(_subnet(subnet) for subnet in subnets if subnet != SubnetBody()),
        labels=body.labels or {},
        options=body.options or {},
    )


def network_json(network: Network, containers: dict[str, object]) -> dict[str, object]:
    """A network in Docker's words."""
    subnets = [subnet for subnet in (network.ipv4, network.ipv6) if subnet is not None]
    return {
        "Name": network.name,
        "Id": network.id,
        "Created": timestamp(network.created_at),
        "Scope": "local",
        "Driver": network.driver,
        "EnableIPv4": network.ipv4 is not None,
        "EnableIPv6": network.ipv6 is not None,
        "IPAM": {"Driver": "default", "Options": None, "Config": [_subnet_json(subnet) for subnet in subnets]},
        "Internal": network.internal,
        "Attachable": False,
        "Ingress": False,
        "ConfigFrom": {"Network": ""},
        "ConfigOnly": False,
        "Containers": containers,
        "Options": network.options,
        "Labels": network.labels,
    }


def _containers_json(engine: Engine, network: Network) -> dict[str, object]:
    """The containers that run on a network, by id."""
    return {
        container.id: {
            "Name": container.name,
            "EndpointID": endpoint_id(container.record, network.id),
            "MacAddress": attachment.mac,
            "IPv4Address": f"{attachment.ipv4}/{prefix_length(network.ipv4)}" if attachment.ipv4 else "",
            "IPv6Address": f"{attachment.ipv6}/{prefix_length(network.ipv6)}" if attachment.ipv6 else "",
        }
        for container, attachment in engine.networks.containers(network.id)
        if container.record.has_vm
    }


def _fits(engine: Engine, network: Network, filters: Filters) -> bool:
    is_builtin = network.name in PREDEFINED
    is_dangling = not is_builtin and not engine.networks.containers(network.id)
    return (
        all((value in _YES) == is_dangling for value in filters.get("dangling", ()))
        and network.driver in filters.get("driver", (network.driver,))
        and any(network.id.startswith(part) for part in filters.get("id", ("",)))
        and all(label_fits(label, network.labels) for label in filters.get("label", ()))
        and any(part in network.name for part in filters.get("name", ("",)))
        and "local" in filters.get("scope", ("local",))
        and ("builtin" if is_builtin else "custom") in filters.get("type", ("builtin", "custom"))
    )


def _container(engine: Engine, reference: str | None) -> Container:
    if not reference:
        raise InvalidRequest("a container must be named")
    return engine.containers.get(reference)


def _subnet(asked: SubnetBody) -> Subnet:
    if not asked.subnet:
        raise InvalidRequest("invalid subnet: a gateway or a range needs a subnet that it is in")
    return Subnet(subnet=asked.subnet, gateway=asked.gateway or "", range=asked.ip_range or "")


def _subnet_json(subnet: Subnet) -> dict[str, str]:
    shown = {"Subnet": subnet.subnet, "Gateway": subnet.gateway}
    return shown | {"IPRange": subnet.range} if subnet.range else shown


ROUTES = (
    ("GET", "/networks", list_networks),
    ("POST", "/networks/create", create),
    ("POST", "/networks/prune", prune),
    ("GET", "/networks/{name}", inspect),
    ("DELETE", "/networks/{name}", remove),
    ("POST", "/networks/{name}/connect", connect),
    ("POST", "/networks/{name}/disconnect", disconnect),
    ("GET", "/atoll/networks/{name}/trace", trace),
)
