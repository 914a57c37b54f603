"""Ports in Docker's words: which a container exposes and publishes, as a client asks for them and as it is told.

Docker writes a port as `80/tcp`; a client may leave out the protocol or write a range, `8000-8010/udp`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import TypeAlias, get_args

from atoll.api.schemas import HostConfig, PortBindingBody
from atoll.engine.record import ContainerRecord
from atoll.errors import InvalidRequest, Unsupported
from atoll.model.container import ContainerConfig
from atoll.model.network import PortBinding, Protocol

Port: TypeAlias = tuple[int, Protocol]
Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

EVERY_ADDRESS = ("0.0.0.0", "::")
"""What Docker shows for a port that is published on all addresses of the host."""
_LAST = 65535
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(\w+))?")


def parse_ports(text: str) -> list[Port]:
    """The ports of `80`, `80/tcp` or `8000-8010/udp`; raises `InvalidRequest`, `Unsupported` for another protocol."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"invalid port specification: '{text}'")
    protocol = _protocol(match[3] or "tcp")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last <= _LAST:
        raise InvalidRequest(f"invalid port specification: '{text}': ports are from 1 to {_LAST}")
    return [(number, protocol) for number in range(first, last + 1)]


def port_bindings(host: HostConfig) -> tuple[PortBinding, ...]:
    """`HostConfig.PortBindings`; raises `InvalidRequest`, `Unsupported`."""
    return tuple(
        _binding(port, asked)
        for text, bindings in (host.port_bindings or {}).items()
        for port in parse_ports(text)
        for asked in bindings or ()
    )


def exposed_ports(asked: Iterable[str], image: Iterable[str], bound: Iterable[PortBinding]) -> tuple[str, ...]:
    """The ports that the user and the image expose and those that are published, as `80/tcp`, in order."""
    found = {port for text in (*asked, *image) for port in parse_ports(text)}
    found |= {(binding.container_port, binding.protocol) for binding in bound}
    return tuple(f"{number}/{protocol}" for number, protocol in sorted(found))


def exposed_json(config: ContainerConfig) -> Json:
    """`Config.ExposedPorts`."""
    return {port: {} for port in config.exposed} or None


def bindings_json(config: ContainerConfig) -> Json:
    """`HostConfig.PortBindings`: what was asked for."""
    found: dict[str, list[Json]] = {}
    for binding in config.ports:
        first, last = binding.host_port or "", binding.host_port_last
        asked: Json = {"HostIp": binding.host_ip, "HostPort": f"{first}-{last}" if last else str(first)}
        found.setdefault(f"{binding.container_port}/{binding.protocol}", []).append(asked)
    return {port: found[port] for port in sorted(found)}


def ports_json(record: ContainerRecord) -> Json:
    """`NetworkSettings.Ports`: what is so while the container runs; null for a port that is not published."""
    if not record.has_vm:
        return {}
    found: dict[str, list[Json]] = {}
    for binding in record.published:
        for address in _shown_addresses(binding):
            shown: Json = {"HostIp": address, "HostPort": str(binding.host_port)}
            found.setdefault(f"{binding.container_port}/{binding.protocol}", []).append(shown)
    return {port: list(found[port]) if port in found else None for port in (*record.config.exposed, *found)}


def port_rows(record: ContainerRecord) -> list[dict[str, str | int]]:
    """`Ports` of a row of the list."""
    if not record.has_vm:
        return []
    rows: list[dict[str, str | int]] = [
        {"IP": address, "PrivatePort": binding.container_port, "PublicPort": binding.host_port,
         "Type": binding.protocol}
        for binding in record.published
        for address in _shown_addresses(binding)
    ]  # fmt: skip
    published = {(row["PrivatePort"], row["Type"]) for row in rows}
    exposed = (port for text in record.config.exposed for port in parse_ports(text))
    return rows + [{"PrivatePort": port[0], "Type": port[1]} for port in exposed if port not in published]


def matches_ports(rows: Sequence[Mapping[str, str | int]], field: str, text: str) -> bool:
    """Whether a container with these rows has one of the ports of the filter `publish` or `expose` as its `field`."""
    wanted = parse_ports(text)
    return any((row.get(field), row["Type"]) in wanted for row in rows)


def _shown_addresses(binding: PortBinding) -> Iterator[str]:
    yield from (binding.host_ip,) if binding.host_ip else EVERY_ADDRESS


def _protocol(text: str) -> Protocol:
    for protocol in get_args(Protocol):
        if text.lower() == protocol:
            return protocol  # type: ignore[no-any-return]  # get_args loses what the names are
    if text.lower() == "sctp":
        raise Unsupported("atoll does not have published ports of SCTP: it has tcp and udp")
    raise InvalidRequest(f"invalid protocol '{text}': it is tcp or udp")


def _binding(port: Port, asked: PortBindingBody) -> PortBinding:
    first, last = _host_ports(asked)
    return PortBinding(
        container_port=port[0], protocol=port[1], host_ip=_host_ip(asked), host_port=first, host_port_last=last
    )


def _host_ip(asked: PortBindingBody) -> str:
    if not asked.host_ip:
        return ""
    try:
        return str(ip_address(asked.host_ip.removeprefix("[").removesuffix("]")))
    except ValueError:
        raise InvalidRequest(f"invalid IP address: {asked.host_ip}") from None


def _host_ports(asked: PortBindingBody) -> tuple[int, int]:
    """The host's port, 0 for a free one, and the last of a range that it may be from, else 0."""
    text = asked.host_port or "0"
    match = _RANGE.fullmatch(text)
    if match is None or match[3] or not 0 <= int(match[1]) <= int(match[2] or match[1]) <= _LAST:
        raise InvalidRequest(f"invalid host port: '{text}'")
    first, last = int(match[1]), int(match[2] or 0)
    return first, last if last > first > 0 else 0
