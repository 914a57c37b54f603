"""A container's places on its networks, in Docker's words: as `create` and `connect` ask for them, as `inspect` shows.

Source: Docker Engine API reference, version 1.47, `EndpointSettings`. The network of `HostConfig.NetworkMode` comes
first and becomes `eth0`.
"""

import hashlib
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from msgspec.structs import replace

from atoll.api.ports import ports_json
from atoll.api.schemas import ContainerBody, EndpointBody, HostConfig
from atoll.engine.guest_networks import dns_names
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest, Unsupported
from atoll.model.network import Attachment, Network, NetworkWish, Subnet

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
FindNetwork: TypeAlias = Callable[[str], Network]

DEFAULT, HOST, NONE = "bridge", "host", "none"
_MAC_BYTES = 6
_NOWHERE: dict[str, Json] = {
    "IPAMConfig": None, "Links": None, "Aliases": None, "MacAddress": "", "DriverOpts": None, "GwPriority": 0,
    "NetworkID": "", "EndpointID": "", "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "",
    "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": None,
}  # fmt: skip
_ADDRESSES = (
    "EndpointID", "Gateway", "GlobalIPv6Address", "GlobalIPv6PrefixLen", "IPAddress", "IPPrefixLen", "IPv6Gateway",
    "MacAddress",
)  # fmt: skip


def network_mode(body: ContainerBody) -> str:
    """What `HostConfig.NetworkMode` comes to; raises `Unsupported` for another container's network."""
    host = body.host_config or HostConfig()
    if body.network_disabled:
        return NONE
    mode = host.network_mode or "default"
    if mode.startswith("container:"):
        raise Unsupported(
            f"atoll does not have --network {mode}: each container has a kernel of its own, and with it "
            "network interfaces that no other can share; connect both to one network instead"
        )
    return DEFAULT if mode == "default" else mode


def network_wishes(body: ContainerBody) -> tuple[NetworkWish, ...]:
    """The networks that a new container is to be on; none for `none`. Raises `InvalidRequest`, `Unsupported`.

    Who names networks and no mode is on those, and not on `bridge` besides.
    """
    mode = network_mode(body)
    endpoints = (body.networking_config.endpoints_config if body.networking_config is not None else None) or {}
    named = {DEFAULT if name == "default" else name: asked for name, asked in endpoints.items()}
    wishes = {name: network_wish(name, asked) for name, asked in named.items()}
    others = [name for name in wishes if name != mode]
    if others and mode in (NONE, HOST):
        raise InvalidRequest(f"a container with --network {mode} cannot be on {others[0]} as well")
    if NONE in others or HOST in others:
        raise InvalidRequest("conflicting options: host and none are no networks beside others")
    if mode == NONE:
        return ()
    if mode not in wishes and (mode != DEFAULT or not wishes):
        wishes[mode] = NetworkWish(network=mode)
    first, *rest = sorted(wishes, key=lambda name: name != mode)
    return (_with_mac(wishes[first], body.mac_address), *(wishes[name] for name in rest))


def network_wish(name: str, asked: EndpointBody | None) -> NetworkWish:
    """One entry of `EndpointsConfig`, null for nothing in particular; raises `InvalidRequest`, `Unsupported`."""
    if asked is None:
        return NetworkWish(network=name)
    if asked.links:
        raise Unsupported(
            f"atoll does not have links (--link {asked.links[0]}): containers of one network find each other by name"
        )
    for option in asked.driver_opts or {}:
        raise Unsupported(f"atoll does not have the endpoint option '{option}'")
    addresses = asked.ipam_config
    if addresses is not None and addresses.link_local_ips:
        raise Unsupported("atoll does not have --link-local-ip")
    return NetworkWish(
        network=name,
        ipv4=_ipv4((addresses.ipv4_address if addresses is not None else None) or ""),
        ipv6=_ipv6((addresses.ipv6_address if addresses is not None else None) or ""),
        mac=_mac(asked.mac_address or ""),
        aliases=tuple(dict.fromkeys(asked.aliases or ())),
        gateway_priority=asked.gw_priority or 0,
    )


def settings_json(record: ContainerRecord, network: FindNetwork) -> Json:
    """`NetworkSettings`: the fields beside `Networks` are those of the network `bridge`, as Docker keeps them."""
    networks = networks_json(record, network)
    bridge = networks.get(DEFAULT, _NOWHERE)
    return {
        "Bridge": "",
        "SandboxID": record.id if record.has_vm else "",
        # A container's network is in its VM: there is no namespace of the host's to enter.
        "SandboxKey": "",
        "Ports": ports_json(record),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        **{field: bridge[field] for field in _ADDRESSES},
        "Networks": {name: dict(endpoint) for name, endpoint in networks.items()},
    }


def networks_json(record: ContainerRecord, network: FindNetwork) -> dict[str, dict[str, Json]]:
    """`NetworkSettings.Networks`: the container's networks by name, `eth0`'s first."""
    if not record.attachments and (record.config.network_mode or NONE) == NONE:
        return {NONE: _NOWHERE | {"NetworkID": network(NONE).id}}
    found = {}
    for attachment in sorted(record.attachments, key=lambda attachment: attachment.slot):
        joined = network(attachment.network_id)
        found[joined.name] = _endpoint_json(record, attachment, joined)
    return found


def endpoint_id(record: ContainerRecord, network_id: str) -> str:
    """What Docker's clients take for the id of a running container's place on a network; "" while it does not run."""
    return hashlib.sha256(f"{record.id} {network_id}".encode()).hexdigest() if record.has_vm else ""


def is_on(record: ContainerRecord, wanted: str, network: FindNetwork) -> bool:
    """Whether the container is on a network of this name, or whose id begins so."""
    if not record.attachments:
        return wanted == NONE
    return any(
        attachment.network_id.startswith(wanted) or network(attachment.network_id).name == wanted
        for attachment in record.attachments
    )


def prefix_length(subnet: Subnet | None) -> int:
    """Of addresses in the subnet; 0 where there is none."""
    return int(subnet.subnet.partition("/")[2]) if subnet is not None else 0


def _endpoint_json(record: ContainerRecord, attachment: Attachment, network: Network) -> dict[str, Json]:
    wish = attachment.wish
    asked: dict[str, Json] = {
        field: address for field, address in (("IPv4Address", wish.ipv4), ("IPv6Address", wish.ipv6)) if address
    }
    return {
        "IPAMConfig": asked or None,
        "Links": None,
        "Aliases": list(attachment.aliases) or None,
        "MacAddress": attachment.mac,
        "DriverOpts": None,
        "GwPriority": attachment.gateway_priority,
        "NetworkID": network.id,
        "EndpointID": endpoint_id(record, network.id),
        "Gateway": network.ipv4.gateway if network.ipv4 is not None else "",
        "IPAddress": attachment.ipv4,
        "IPPrefixLen": prefix_length(network.ipv4),
        "IPv6Gateway": network.ipv6.gateway if network.ipv6 is not None else "",
        "GlobalIPv6Address": attachment.ipv6,
        "GlobalIPv6PrefixLen": prefix_length(network.ipv6),
        "DNSNames": list(dns_names(record, attachment)),
    }


def _with_mac(wish: NetworkWish, mac: str | None) -> NetworkWish:
    """The first network with the container's own MAC address, as clients before API 1.44 ask for it."""
    wanted = _mac(mac or "")
    if wanted and wish.mac and wanted != wish.mac:
        raise InvalidRequest(
            "the container-wide MAC address must match the endpoint-specific MAC address for the main network, "
            "or be left empty"
        )
    return replace(wish, mac=wanted or wish.mac)


def _ipv4(text: str) -> str:
    try:
        return text and str(IPv4Address(text))
    except ValueError:
        raise InvalidRequest(f"invalid IPv4 address: {text}") from None


def _ipv6(text: str) -> str:
    try:
        return text and str(IPv6Address(text))
    except ValueError:
        raise InvalidRequest(f"invalid IPv6 address: {text}") from None


def _mac(text: str) -> str:
    """A unicast address with colons, in lower case."""
    if not text:
        return ""
    try:
        octets = bytes.fromhex(text.replace(":", " ").replace("-", " "))
    except ValueError:
        octets = b""
    if len(octets) != _MAC_BYTES or len(text) != 3 * _MAC_BYTES - 1:
        raise InvalidRequest(f"invalid MAC address: {text}")
    if octets[0] & 1 or not any(octets):
        raise InvalidRequest(f"invalid MAC address: {text} is not that of one interface")
    return octets.hex(":")
