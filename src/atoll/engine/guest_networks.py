"""A container's networks as its guest has them: interfaces with addresses and routes, nameservers, its ports.

The way out leads through one network for each protocol: that of the highest `gateway_priority`, else of the lowest
slot, but through none that is internal.
"""

from collections.abc import Callable
from ipaddress import ip_network

from atoll.engine.record import ContainerRecord
from atoll.model.container import ContainerConfig
from atoll.model.network import Attachment, Interface, Network, PortBinding, Protocol, Subnet
from atoll.vmm.slots import NETWORKS

GetNetwork = Callable[[str], Network]

_SHORT_ID = 12
_PROTOCOLS: dict[str, Protocol] = {"tcp": "tcp", "udp": "udp"}


def interfaces(record: ContainerRecord, network_of: GetNetwork) -> tuple[Interface, ...]:
    """The interfaces of a container, by slot."""
    ways_out = {which: way_out(record, network_of, which) for which in ("ipv4", "ipv6")}
    made = []
    for attachment in sorted(record.attachments, key=lambda attachment: attachment.slot):
        network = network_of(attachment.network_id)
        addresses, gateways = [], []
        for which, address, subnet in (
            ("ipv4", attachment.ipv4, network.ipv4),
            ("ipv6", attachment.ipv6, network.ipv6),
        ):
            if address and subnet is not None:
                addresses.append(f"{address}/{ip_network(subnet.subnet).prefixlen}")
                if ways_out[which] == attachment:
                    gateways.append(subnet.gateway)
        interface = Interface(
            pci=NETWORKS[attachment.slot],
            name=interface_name(attachment),
            mac=attachment.mac,
            addresses=tuple(addresses),
            gateways=tuple(gateways),
            mtu=network.mtu,
        )
        made.append(interface)
    return tuple(made)


def interface_name(attachment: Attachment) -> str:
    """What the guest calls the interface."""
    return f"eth{attachment.slot}"


def dns_names(record: ContainerRecord, attachment: Attachment) -> tuple[str, ...]:
    """What others on the network call the container, as in Docker."""
    names = (record.name, *attachment.aliases, record.id[:_SHORT_ID], record.config.hostname)
    return tuple(dict.fromkeys(name for name in names if name))


def resolvers(record: ContainerRecord, network_of: GetNetwork) -> tuple[str, ...]:
    """The nameservers of a container: those of its networks, that of the way out first."""
    first = way_out(record, network_of, "ipv4")
    attachments = sorted(record.attachments, key=lambda attachment: (attachment != first, attachment.slot))
    subnets = (_subnet(network_of(attachment.network_id), "ipv4") for attachment in attachments)
    return tuple(subnet.gateway for subnet in subnets if subnet is not None)


def host_gateway(record: ContainerRecord, network_of: GetNetwork) -> str:
    """The address of the host as the container sees it (`--add-host x:host-gateway`); "" when it is on no network."""
    return next(iter(resolvers(record, network_of)), "")


def way_out(record: ContainerRecord, network_of: GetNetwork, which: str = "ipv4") -> Attachment | None:
    """The place through which a container's traffic goes out, and its published ports come in."""
    outward = [
        attachment
        for attachment in record.attachments
        if not (network := network_of(attachment.network_id)).internal and _subnet(network, which) is not None
    ]
    return max(outward, key=lambda attachment: (attachment.gateway_priority, -attachment.slot), default=None)


def _subnet(network: Network, which: str) -> Subnet | None:
    return network.ipv4 if which == "ipv4" else network.ipv6


def wanted_ports(config: ContainerConfig) -> tuple[PortBinding, ...]:
    """The ports that a container is to have on the host, those of `publish_all` at free ones."""
    bound = {(binding.container_port, binding.protocol) for binding in config.ports}
    exposed = []
    if config.publish_all:
        for text in config.exposed:
            number, _, protocol = text.partition("/")
            key = int(number), _PROTOCOLS[protocol or "tcp"]
            if key not in bound:
                bound.add(key)
                exposed.append(PortBinding(container_port=key[0], protocol=key[1]))
    return (*config.ports, *exposed)
