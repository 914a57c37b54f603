"""A destination that a container may reach: `10.0.0.0/8`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::/32]:53`."""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple


class Destination(NamedTuple):
    """The addresses of `network`; with `port` 0 everything at them, else that port over TCP and UDP."""

    network: IPv4Network | IPv6Network
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> "Destination":
        """What `text` names. Raises `ValueError` with what is wrong with it."""
        bracketed = text.startswith("[")
        if bracketed:
            address, closing, rest = text[1:].partition("]")
            if not closing or (rest and not rest.startswith(":")):
                raise ValueError(f"'{text}' has a '[' that is not closed, or something but a port behind it")
            port = rest[1:] if rest else None
        elif text.count(":") > 1:
            address, port = text, None
        else:
            address, colon, behind = text.partition(":")
            port = behind if colon else None
        try:
            network = ip_network(address)
        except ValueError as error:
            # Python's words: what is no network, or which host bits are set.
            raise ValueError(str(error)) from None
        if "%" in address:
            raise ValueError(f"'{text}' names a link of the host")
        if bracketed and network.version == 4:
            raise ValueError(f"'{text}' has brackets, which are for IPv6 addresses")
        return cls(network, 0 if port is None else _port(port))

    def __str__(self) -> str:
        single = self.network.prefixlen == self.network.max_prefixlen
        address = str(self.network.network_address if single else self.network)
        if not self.port:
            return address
        return f"[{address}]:{self.port}" if self.network.version == 6 else f"{address}:{self.port}"


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ValueError(f"'{text}' is no port: write a number from 1 to 65535")
    return int(text)
