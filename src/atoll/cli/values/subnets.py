"""Subnets of a new network with the ranges and gateways that lie in them (apart: `ipaddress` takes long to import)."""

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Subnet = IPv4Network | IPv6Network


def match_subnets(subnets: Sequence[str], ranges: Sequence[str], gateways: Sequence[str]) -> list[dict[str, str]]:
    """`IPAM.Config`; raises `ValueError` for what is no subnet, or a range or gateway that is in none."""
    found: dict[Subnet, dict[str, str]] = {}
    for text in subnets:
        subnet = _network(text)
        if any(subnet.overlaps(other) for other in found if other.version == subnet.version):
            raise ValueError("multiple overlapping subnet configuration is not supported")
        found[subnet] = {"Subnet": text}
    for text in ranges:
        inner = _network(text)
        _entry(found, inner, f"no matching subnet for range {text}", "IPRange", text)
    for text in gateways:
        address = ip_address(text)
        single = ip_network(address)
        _entry(found, single, f"no matching subnet for gateway {text}", "Gateway", text)
    return list(found.values())


def _entry(found: dict[Subnet, dict[str, str]], inner: Subnet, message: str, field: str, text: str) -> None:
    for subnet, entry in found.items():
        if subnet.version == inner.version and subnet.supernet_of(inner):  # type: ignore[arg-type]  # same version
            if field in entry:
                raise ValueError(f"cannot configure multiple values of {field} ({text}, {entry[field]}) on {subnet}")
            entry[field] = text
            return
    raise ValueError(message)


def _network(text: str) -> Subnet:
    if "/" not in text:
        raise ValueError(f"invalid CIDR address: {text}")
    return ip_network(text, strict=False)
