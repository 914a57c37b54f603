"""The files that tell a container who it is and how to find others.

/etc/hostname, /etc/hosts and /etc/resolv.conf are Docker's; /etc/machine-id (machine-id(5)) is ours: a container is a
machine of its own, and an image that has one would give it to all of its containers.
"""

from ipaddress import ip_address

from atoll.errors import InvalidRequest
from atoll.model.container import ContainerConfig

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


def identity_files(config: ContainerConfig, container_id: str) -> dict[str, bytes]:
    """Contents by path; `container_id` is hexadecimal.

    Raises `InvalidRequest` for an extra host or a server that is no address.
    """
    return {
        "/etc/hostname": f"{config.hostname}\n".encode(),
        "/etc/hosts": _hosts(config.extra_hosts),
        "/etc/resolv.conf": _resolver(config),
        "/etc/machine-id": f"{container_id[:_MACHINE_ID_DIGITS]}\n".encode(),
    }


def _hosts(extra_hosts: tuple[str, ...]) -> bytes:
    rows = [*_LOCAL_HOSTS, *map(_extra_host, extra_hosts)]
    return "".join(f"{address}\t{names}\n" for address, names in rows).encode()


def _extra_host(entry: str) -> tuple[str, str]:
    """`name:address` or `name=address`; an IPv6 address may stand in brackets."""
    name, _, address = entry.partition("=") if "=" in entry else entry.partition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not name or name.split() != [name]:
        raise InvalidRequest(f"bad extra host {entry!r}: write it as name:address")
    return _address(address, f"bad extra host {entry!r}: write it as name:address"), name


def _resolver(config: ContainerConfig) -> bytes:
    rows = [f"nameserver {_address(server, f'bad DNS server {server!r}: give an IP address')}" for server in config.dns]
    # Docker: a single dot means no search domains at all.
    search = [domain for domain in config.dns_search if domain != "."]
    if search:
        rows.append(f"search {' '.join(search)}")
    if config.dns_options:
        rows.append(f"options {' '.join(config.dns_options)}")
    for row in rows:
        if len(row.splitlines()) != 1:
            raise InvalidRequest(f"bad DNS setting {row!r}: it has more than one line")
    return "".join(f"{row}\n" for row in rows).encode()


def _address(text: str, complaint: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise InvalidRequest(complaint) from None
