"""The files that tell a container who it is and how to find others.

/etc/hostname, /etc/hosts and /etc/resolv.conf are Docker's; /etc/machine-id (machine-id(5)) is ours: a container is a
machine of its own, and an image that has one would give it to all of its containers.
"""

from collections.abc import Sequence
from ipaddress import ip_address, ip_interface

from atoll.errors import InvalidRequest
from atoll.model.container import ContainerConfig
from atoll.model.network import Interface

# What Docker writes at the top of every /etc/hosts.
_LOCAL_HOSTS = (
    ("127.0.0.1", "localhost"),
    ("::1", "localhost ip6-localhost ip6-loopback"),
    ("fe00::", "ip6-localnet"),
    ("ff00::", "ip6-mcastprefix"),
    ("ff02::1", "ip6-allnodes"),
    ("ff02::2", "ip6-allrouters"),
)

_MACHINE_ID_DIGITS = 32
_HOST_GATEWAY = "host-gateway"


def identity_files(
    config: ContainerConfig,
    container_id: str,
    interfaces: Sequence[Interface] = (),
    resolvers: Sequence[str] = (),
    host_gateway: str = "",
) -> dict[str, bytes]:
    """Contents by path; `container_id` is hexadecimal. The others are as in `BundleSpec`; raises as `network_files`."""
    return {
        "/etc/hostname": f"{config.hostname}\n".encode(),
        **network_files(config, interfaces, resolvers, host_gateway),
        "/etc/machine-id": f"{container_id[:_MACHINE_ID_DIGITS]}\n".encode(),
    }


def network_files(
    config: ContainerConfig, interfaces: Sequence[Interface], resolvers: Sequence[str], host_gateway: str
) -> dict[str, bytes]:
    """Those of the files that change with the container's networks.

    Raises `InvalidRequest` for an extra host or a server that is no address.
    """
    extra = (_extra_host(entry, host_gateway) for entry in config.extra_hosts)
    rows = [*_LOCAL_HOSTS, *extra, *_own_addresses(config, interfaces)]
    return {
        "/etc/hosts": "".join(f"{address}\t{names}\n" for address, names in rows).encode(),
        "/etc/resolv.conf": _resolver(config, resolvers),
    }


def _own_addresses(config: ContainerConfig, interfaces: Sequence[Interface]) -> list[tuple[str, str]]:
    # https://github.com/moby/moby/blob/v20.10.24/libnetwork/sandbox_dns_unix.go#L70
    names = f"{config.hostname}.{config.domainname} {config.hostname}" if config.domainname else config.hostname
    return [(str(ip_interface(address).ip), names) for interface in interfaces for address in interface.addresses]


def _extra_host(entry: str, host_gateway: str) -> tuple[str, str]:
    """`name:address` or `name=address`; an IPv6 address may stand in brackets, or `host-gateway` for the host's."""
    name, _, address = entry.partition("=") if "=" in entry else entry.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not name or name.split() != [name]:
        raise InvalidRequest(f"bad extra host {entry!r}: write it as name:address")
    if address == _HOST_GATEWAY:
        if not host_gateway:
            raise InvalidRequest(f"extra host {entry!r} needs a network that leads to the host: give --network")
        address = host_gateway
    return _address(address, f"bad extra host {entry!r}: write it as name:address"), name


def _resolver(config: ContainerConfig, resolvers: Sequence[str]) -> bytes:
    """Where there is a network its gateway is asked, also with `--dns`: it knows the names of containers."""
    servers = resolvers or config.dns
    rows = [f"nameserver {_address(server, f'bad DNS server {server!r}: give an IP address')}" for server in servers]
    # Docker: a single dot means no search domains at all.
    search = [domain for domain in config.dns_search if domain != "."]
    if search:
        rows.append(f"search {' '.join(search)}")
    options = list(config.dns_options)
    if resolvers and not any(option.startswith("ndots:") for option in options):
        options.append("ndots:0")  # as Docker: a name without a dot is a container's first
    if options:
        rows.append(f"options {' '.join(options)}")
    for row in rows:
        if len(row.splitlines()) != 1:
            raise InvalidRequest(f"bad DNS setting {row!r}: it has more than one line")
    return "".join(f"{row}\n" for row in rows).encode()


def _address(text: str, complaint: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidRequest(complaint) from None
