"""What the engine must know of its host to make a network: which way out there is, its resolvers, its addresses."""

import ipaddress
import os
import shutil
from pathlib import Path
from typing import Literal

from atoll.errors import Unavailable
from atoll.model.network import Network

RESOLV_CONF = Path("/etc/resolv.conf")
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_TREE = Path("/proc/net/fib_trie")
_ADDRESSES6 = Path("/proc/net/if_inet6")
_MAX_RESOLVERS = 3


def choose_uplink(network: Network) -> Literal["none", "pasta", "veth"]:
    """The way out for `network` on this host; raises `Unavailable` when there is no program for it."""
    if network.internal or network.driver == "null":
        return "none"
    # Without isolation the gateway is the host's loopback, which only pasta leads to.
    if network.driver != "host" and os.geteuid() == 0 and _FORWARDING.read_text().strip() == "1":
        return "veth"
    if shutil.which("pasta") is None:
        raise Unavailable("a network needs pasta to lead out: install the package passt, or make it with --internal")
    return "pasta"


def host_resolvers(path: Path = RESOLV_CONF) -> tuple[str, ...]:
    """The host's resolvers, as resolv.conf(5) says. One on the host's loopback is fine: it is asked from outside."""
    found = []
    for line in _lines(path):
        match line.split():
            case ["nameserver", address, *_]:
                try:
                    ipaddress.ip_address(address)
                except ValueError:
                    continue
                found.append(address)
    return tuple(found[:_MAX_RESOLVERS])


def host_addresses() -> tuple[str, ...]:
    """The host's own addresses, without its loopback's and those of single links."""
    found: set[str] = set()
    address = ""
    # The kernel's routes as a tree: `|-- 192.0.2.2`, and below it `/32 host LOCAL`.
    for line in _lines(_TREE):
        words = line.split()
        if words[:1] == ["|--"]:
            address = words[1]
        elif words[1:] == ["host", "LOCAL"]:
            found.add(address)
    for line in _lines(_ADDRESSES6):
        found.add(str(ipaddress.IPv6Address(int(line.split()[0], 16))))
    addresses = [ipaddress.ip_address(text) for text in sorted(found)]
    return tuple(str(one) for one in addresses if not one.is_loopback and not one.is_link_local)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
