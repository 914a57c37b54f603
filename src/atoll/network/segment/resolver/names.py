"""Who is called what on a network, and who may know it.

An endpoint is known by its names and by the first 12 digits of its id (all 64 are more than DNS takes in a label), each
also with the network's domain behind it. `foreign_names` are for the endpoint alone that has them. Names are compared
without regard to case.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import dns.exception
import dns.name
import dns.reversename

from atoll.errors import InvalidRequest
from atoll.model.network import Endpoint, SegmentSpec

Address = IPv4Address | IPv6Address


class Names:
    """The names of one network. Raises `InvalidRequest` if its domain is none."""

    def __init__(self, spec: SegmentSpec) -> None:
        subnets = (spec.network.ipv4, spec.network.ipv6)
        self._subnets = [ip_network(subnet.subnet, strict=False) for subnet in subnets if subnet is not None]
        self._domain = _name(spec.domain) if spec.domain else None
        if self._domain is None and spec.domain:
            raise InvalidRequest(f"'{spec.domain}' is no domain for the names of a network")
        self._endpoints: dict[str, Endpoint] = {}
        # By addresses as the kernel writes them.
        self._clients: dict[str, Endpoint] = {}
        self._holders: dict[str, dict[str, Endpoint]] = {}

    def put(self, endpoint: Endpoint) -> None:
        """Add an endpoint, or change it."""
        self.remove(endpoint.id)
        self._endpoints[endpoint.id] = endpoint
        self._clients |= dict.fromkeys(map(str, _addresses(endpoint)), endpoint)
        for key in _keys(endpoint):
            self._holders.setdefault(key, {})[endpoint.id] = endpoint

    def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint."""
        if (endpoint := self._endpoints.pop(endpoint_id, None)) is None:
            return
        for address in map(str, _addresses(endpoint)):
            if self._clients.get(address) is endpoint:
                del self._clients[address]
        for key in _keys(endpoint):
            del self._holders[key][endpoint_id]
            if not self._holders[key]:
                del self._holders[key]

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def client(self, address: str) -> Endpoint | None:
        """The endpoint that asks from this source address."""
        return self._clients.get(address)

    def addresses(self, name: dns.name.Name, client: Endpoint) -> list[Address] | None:
        """The addresses of a name that the client may know; None if there is none of that name."""
        if self._domain is not None and name.is_subdomain(self._domain):
            name = name.relativize(self._domain)
            if name == dns.name.empty:
                return []
        key = _key(name)
        if (holders := self._holders.get(key)) is not None:
            return [address for endpoint in holders.values() for address in _addresses(endpoint)]
        for foreign, addresses in client.foreign_names.items():
            if _key(_name(foreign)) == key:
                return [ip_address(address) for address in addresses]
        return None

    def name_at(self, name: dns.name.Name, client: Endpoint) -> dns.name.Name | None:
        """The name of who is at an address, `2.0.83.10.in-addr.arpa`, if the client may know it."""
        if (address := _turned_round(name)) is None:
            return None
        if (endpoint := self._clients.get(str(address))) is not None:
            found = _name(endpoint.names[0]) if endpoint.names else None
            found = found or dns.name.from_text(endpoint.id[:12])
            return found if self._domain is None else found.relativize(dns.name.root) + self._domain
        for foreign, addresses in client.foreign_names.items():
            if address in map(ip_address, addresses):
                return _name(foreign)
        return None

    def is_ours(self, name: dns.name.Name) -> bool:
        """Whether nobody else can know more of it: it is below our domain, or an address of ours turned round."""
        if self._domain is not None and name.is_subdomain(self._domain):
            return True
        address = _turned_round(name)
        return address is not None and any(address in subnet for subnet in self._subnets)


def _addresses(endpoint: Endpoint) -> list[Address]:
    return [ip_address(address) for address in (endpoint.ipv4, endpoint.ipv6) if address]


def _keys(endpoint: Endpoint) -> set[str]:
    names = (*endpoint.names, endpoint.id[:12])
    return {_key(name) for text in names if (name := _name(text)) is not None}


def _key(name: dns.name.Name | None) -> str:
    return "" if name is None else name.to_text(omit_final_dot=True).lower()


def _name(text: str) -> dns.name.Name | None:
    """The name that people wrote; None if nobody can ask for it, because DNS does not have such."""
    try:
        return dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError):
        return None


def _turned_round(name: dns.name.Name) -> Address | None:
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
