"""Where a published port leads to."""

import socket
from typing import NamedTuple


class Target(NamedTuple):
    """Where connections lead to: the container's addresses ("" if it has none of that family), and its port."""

    ipv4: str
    ipv6: str
    port: int

    def address(self, family: int) -> str:
        """The container's address for clients of a family, if possible in the same."""
        return (self.ipv6 or self.ipv4) if family == socket.AF_INET6 else (self.ipv4 or self.ipv6)
