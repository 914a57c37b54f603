"""Networks: what the engine stores of them, and what it says to their segments.

A network is one Ethernet segment: a subnet, a gateway, and the endpoints of the containers on it.
Addresses are strings as people write them: `10.83.0.2`, `fd12::2`, `02:42:0a:53:00:02`; with a prefix length where it
says so.
"""

from datetime import datetime
from typing import Literal

from msgspec import Struct

Protocol = Literal["tcp", "udp"]


class Subnet(Struct, frozen=True):
    """Addresses of a network: `subnet` with its prefix length, `gateway` without, new ones are taken from `range`."""

    subnet: str
    gateway: str
    range: str = ""


class Network(Struct, frozen=True, kw_only=True):
    """A network as the engine stores it. `driver` is `bridge`, `host` (not isolated) or `null`.

    `internal`: no way out. `isolated`: its containers do not reach each other. `reaches_metadata`: the cloud's metadata
    service is not blocked. `ipv4` is None for `host` and `null` only; `ipv6` where it was not wanted.
    """

    id: str
    name: str
    created_at: datetime
    driver: Literal["bridge", "host", "null"] = "bridge"
    ipv4: Subnet | None = None
    ipv6: Subnet | None = None
    mtu: int = 1500
    internal: bool = False
    isolated: bool = False
    reaches_metadata: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class PortBinding(Struct, frozen=True, kw_only=True):
    """A port of the container on the host; `host_ip` "" is every address of the host, `host_port` 0 a free one.

    With `host_port_last` it is the first from `host_port` to that one which is free.
    """

    container_port: int
    protocol: Protocol = "tcp"
    host_ip: str = ""
    host_port: int = 0
    host_port_last: int = 0


class Egress(Struct, frozen=True, kw_only=True):
    """What a container may reach beyond its networks.

    `all`; `none`: nothing, and no names but those of its networks; `dns`: any name, and no address; `listed`: the
    networks in `allow` (`10.0.0.0/8`, `192.0.2.1:443`, `[2001:db8::/32]:53`) and the addresses that the names in
    `domains` (and those below them) have, which are the only names that are looked up for it.
    """

    mode: Literal["all", "none", "dns", "listed"] = "all"
    allow: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class NetworkWish(Struct, frozen=True, kw_only=True):
    """A network that a user wants a container on (`network` is its name or id), and how; "" is chosen by the engine."""

    network: str
    ipv4: str = ""
    ipv6: str = ""
    mac: str = ""
    aliases: tuple[str, ...] = ()
    gateway_priority: int = 0


class Attachment(Struct, frozen=True, kw_only=True):
    """A container on a network, as its record has it from create (or connect) to removal (or disconnect).

    `slot` is the number of the VM's network device: 0 is `eth0`.
    """

    network_id: str
    slot: int
    mac: str
    ipv4: str = ""
    ipv6: str = ""
    aliases: tuple[str, ...] = ()
    gateway_priority: int = 0
    wish: NetworkWish


class Endpoint(Struct, frozen=True, kw_only=True):
    """A running container on a segment, as the segment is told.

    `id` is the container's. `names` are what it is called on this network. `foreign_names` are names with addresses on
    the container's other networks, which only it may look up here. `resolvers` are asked for it instead of the host's.
    `ports` are published; `tap` is the name of the VM's network device on the host, "" while it is not there yet.
    """

    id: str
    mac: str
    ipv4: str
    ipv6: str = ""
    names: tuple[str, ...] = ()
    foreign_names: dict[str, tuple[str, ...]] = {}
    resolvers: tuple[str, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    egress: Egress = Egress()
    tap: str = ""


class SegmentSpec(Struct, frozen=True, kw_only=True):
    """What a segment is to be: the network, the way out of it, and the host's resolvers (`address` or `address#port`).

    `uplink` `veth` needs root and a host that forwards. `to_host`: the gateway's address leads to the host's own
    loopback (the network `host`). `host_addresses` are not reached through the uplink, unless `to_host`.
    """

    network: Network
    uplink: Literal["none", "pasta", "veth"]
    resolvers: tuple[str, ...] = ()
    host_addresses: tuple[str, ...] = ()
    to_host: bool = False
    domain: str = ""


class Counters(Struct, frozen=True, kw_only=True):
    """What went over an endpoint, as its container sees it; `forged` frames were dropped by the filter."""

    received_bytes: int = 0
    received_packets: int = 0
    received_dropped: int = 0
    sent_bytes: int = 0
    sent_packets: int = 0
    sent_dropped: int = 0
    forged: int = 0


class Interface(Struct, frozen=True, kw_only=True):
    """A network device inside the guest, in the bundle and in the agent's requests.

    `pci` is its slot (`atoll.vmm.slots.NETWORKS[attachment.slot]`), `addresses` have prefix lengths, `gateways` are the
    default routes through it.
    """

    pci: str
    name: str
    mac: str
    addresses: tuple[str, ...]
    gateways: tuple[str, ...] = ()
    mtu: int = 1500
