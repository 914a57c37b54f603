"""Ports: `-p` and `--expose` in Docker's grammar, and how `ps` and `port` show what is published."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from atoll.cli.values.limits import is_address

if TYPE_CHECKING:
    from atoll.client.shapes import Port

PROTOCOLS = ("tcp", "udp", "sctp")
_LAST = 65535


class Published(NamedTuple):
    """A port of the container (`80/tcp`) on the host; `host_port` "" is a free one, `8000-8010` one of these."""

    port: str
    host_ip: str
    host_port: str


def parse_publish(text: str) -> list[Published]:
    """`[[ip:][host]:]container[/protocol]` with ranges, or `target=80,published=8080`. Raises `ValueError`."""
    if "=" in text:
        text = _standard(text)
    address, protocol = _split_protocol(text)
    front, _, container = address.rpartition(":")
    ip, _, host = front.rpartition(":")
    ip = ip[1:-1] if ip.startswith("[") and ip.endswith("]") else ip
    if ip and not is_address(ip):
        raise ValueError(f"invalid IP address: {ip}")
    if not container:
        raise ValueError(f"no port specified: {text}<empty>")
    ports = _range(container, "containerPort")
    if not host:
        return [Published(f"{port}/{protocol}", ip, "") for port in ports]
    hosts = _range(host, "hostPort")
    if len(hosts) == len(ports):
        pairs = zip(ports, hosts, strict=True)
        return [Published(f"{port}/{protocol}", ip, str(host_port)) for port, host_port in pairs]
    if len(ports) != 1:
        raise ValueError(f"invalid ranges specified for container and host Ports: {container} and {host}")
    return [Published(f"{ports[0]}/{protocol}", ip, host)]


def parse_expose(text: str) -> list[str]:
    """`80`, `80/udp` or `8000-8010`, as `80/tcp`. Raises `ValueError`."""
    if ":" in text:
        raise ValueError(f"invalid port format for --expose: {text}")
    numbers, protocol = _split_protocol(text)
    return [f"{port}/{protocol}" for port in _range(numbers, "range format for --expose")]


def parse_port(text: str) -> str:
    """The argument of `atoll port`, with its protocol. Raises `ValueError`."""
    number, protocol = _split_protocol(text)
    (port,) = _range(number, "port") if "-" not in number else ("",)
    if not port:
        raise ValueError(f"invalid port '{text}'")
    return f"{port}/{protocol}"


def host_address(ip: str, port: str | int) -> str:
    """`0.0.0.0:80`, `[::]:80`."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def shown_ports(ports: "Iterable[Port]") -> str:
    """The column PORTS of `ps`: neighbours that keep their number on the host are one range."""
    groups: dict[tuple[str, str], tuple[int, int]] = {}
    closed: list[str] = []
    mapped: list[str] = []
    for port in sorted(ports, key=_order):
        ip, number, protocol = port.get("IP", ""), port.get("PrivatePort", 0), port.get("Type", "tcp")
        public = port.get("PublicPort", 0)
        if ip and public != number:
            mapped.append(f"{host_address(ip, public)}->{number}/{protocol}")
            continue
        first, last = groups.get((ip, protocol), (number, number))
        if number not in (last, last + 1):
            closed.append(_shown_group(ip, protocol, first, last))
            first = number
        groups[ip, protocol] = (first, number)
    shown = [_shown_group(ip, protocol, first, last) for (ip, protocol), (first, last) in groups.items()]
    return ", ".join([*closed, *shown, *mapped])


def _shown_group(ip: str, protocol: str, first: int, last: int) -> str:
    numbers = f"{first}-{last}" if first != last else str(first)
    return f"{host_address(ip, numbers)}->{numbers}/{protocol}" if ip else f"{numbers}/{protocol}"


def _order(port: "Port") -> tuple[int, str, int, str]:
    return port.get("PrivatePort", 0), port.get("IP", ""), port.get("PublicPort", 0), port.get("Type", "")


def _standard(text: str) -> str:
    values = {"published": "", "target": "", "protocol": "tcp"}
    for word in text.split(","):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"invalid publish opts format (should be name=value but got '{word}')")
        values[name] = value
    return f"{values['published']}:{values['target']}/{values['protocol']}"


def _split_protocol(text: str) -> tuple[str, str]:
    rest, slash, protocol = text.partition("/")
    protocol = protocol.lower() if slash else "tcp"
    if protocol not in PROTOCOLS:
        raise ValueError(f"invalid proto: {protocol}")
    return rest, protocol


def _range(text: str, what: str) -> Sequence[int]:
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", text)
    if match is None or not 0 < int(match[1]) <= int(match[2] or match[1]) <= _LAST:
        raise ValueError(f"invalid {what}: {text}")
    return range(int(match[1]), int(match[2] or match[1]) + 1)
