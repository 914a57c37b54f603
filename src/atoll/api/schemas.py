"""What clients send, by Docker's names: decoded and checked once, here; unknown fields are ignored as in Docker.

Source: the Docker Engine API reference, version 1.47. Docker's clients send null for anything they leave out.
"""

from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct, field

from atoll.errors import InvalidRequest
from atoll.model.agent import Terminal

Text = str | None
Texts = list[str] | None
Words = list[str] | str | None
"""A list, or one string for a list of one (Docker's StrSlice)."""
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None
Yes = bool | None
Anything = msgspec.Raw
"""Something that we only look at to see whether it is there."""

T = TypeVar("T")


class Ulimit(Struct, frozen=True, rename="pascal"):
    """One `--ulimit`."""

    name: str
    soft: int = 0
    hard: int = 0


class RestartPolicyBody(Struct, frozen=True, rename="pascal"):
    """`--restart`."""

    name: Text = None
    maximum_retry_count: int = 0


class LogConfig(Struct, frozen=True, rename="pascal"):
    """`--log-driver` and `--log-opt`."""

    type: Text = None
    config: dict[str, str] | None = None


class MountBody(Struct, frozen=True, rename="pascal"):
    """One `--mount`."""

    type: str = ""
    source: Text = None
    target: str = ""
    read_only: bool = False
    bind_options: "BindOptions | None" = None
    volume_options: "VolumeOptionsBody | None" = None
    tmpfs_options: "TmpfsOptions | None" = None


class BindOptions(Struct, frozen=True, rename="pascal"):
    """Options of `--mount type=bind`."""

    propagation: Text = None
    create_mountpoint: bool = False


class DriverConfig(Struct, frozen=True, rename="pascal"):
    """What makes a volume that a container is created with."""

    name: Text = None
    options: dict[str, str] | None = None


class VolumeOptionsBody(Struct, frozen=True, rename="pascal"):
    """Options of `--mount type=volume`."""

    no_copy: bool = False
    labels: dict[str, str] | None = None
    driver_config: DriverConfig | None = None
    subpath: Text = None


class VolumeBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /volumes/create`."""

    name: Text = None
    driver: Text = None
    driver_opts: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class TmpfsOptions(Struct, frozen=True, rename="pascal"):
    """Options of `--mount type=tmpfs`."""

    size_bytes: int = 0
    mode: int = 0


class Extensions(Struct, frozen=True, rename="pascal"):
    """What Docker does not have."""

    verify: Yes = None
    egress: Words = None


class PortBindingBody(Struct, frozen=True, rename="pascal"):
    """One address and port of the host that a port of the container is published on."""

    host_ip: Text = None
    host_port: Text = None


class HostConfig(Struct, frozen=True, rename="pascal"):
    """How a container relates to its host. What is typed `Anything` we do not have, and refuse when it is there."""

    binds: Texts = None
    log_config: LogConfig | None = None
    network_mode: Text = None
    port_bindings: dict[str, list[PortBindingBody] | None] | None = None
    restart_policy: RestartPolicyBody | None = None
    auto_remove: Yes = None
    volume_driver: Text = None
    volumes_from: Texts = None
    mounts: list[MountBody] | None = None
    cap_add: Words = None
    cap_drop: Words = None
    cgroupns_mode: Text = None
    dns: Texts = None
    dns_options: Texts = None
    dns_search: Texts = None
    extra_hosts: Texts = None
    group_add: Texts = None
    ipc_mode: Text = None
    cgroup: Text = None
    links: Texts = None
    oom_score_adj: int | None = None
    pid_mode: Text = None
    privileged: Yes = None
    publish_all_ports: Yes = None
    readonly_rootfs: Yes = None
    security_opt: Texts = None
    storage_opt: dict[str, str] | None = None
    tmpfs: dict[str, str] | None = None
    uts_mode: Text = field(default=None, name="UTSMode")
    userns_mode: Text = None
    shm_size: Whole = None
    sysctls: dict[str, str] | None = None
    runtime: Text = None
    cpu_shares: Whole = None
    memory: Whole = None
    nano_cpus: Whole = None
    cgroup_parent: Text = None
    blkio_weight: int | None = None
    blkio_weight_device: list[Anything] | None = None
    blkio_device_read_bps: list[Anything] | None = None
    blkio_device_write_bps: list[Anything] | None = None
    blkio_device_read_iops: list[Anything] | None = field(default=None, name="BlkioDeviceReadIOps")
    blkio_device_write_iops: list[Anything] | None = field(default=None, name="BlkioDeviceWriteIOps")
    cpu_period: Whole = None
    cpu_quota: Whole = None
    cpu_realtime_period: Whole = None
    cpu_realtime_runtime: Whole = None
    cpuset_cpus: Text = None
    cpuset_mems: Text = None
    devices: list[Anything] | None = None
    device_cgroup_rules: Texts = None
    device_requests: list[Anything] | None = None
    memory_reservation: Whole = None
    memory_swap: Whole = None
    memory_swappiness: Whole = None
    oom_kill_disable: Yes = None
    init: Yes = None
    console_size: tuple[int, int] | None = None
    pids_limit: Whole = None
    ulimits: list[Ulimit] | None = None
    masked_paths: Texts = None
    readonly_paths: Texts = None
    atoll: Extensions | None = None


class EndpointAddresses(Struct, frozen=True, rename="pascal"):
    """Addresses that a container wants on a network."""

    ipv4_address: Text = field(default=None, name="IPv4Address")
    ipv6_address: Text = field(default=None, name="IPv6Address")
    link_local_ips: Texts = field(default=None, name="LinkLocalIPs")


class EndpointBody(Struct, frozen=True, rename="pascal"):
    """How a container is to be on a network."""

    ipam_config: EndpointAddresses | None = field(default=None, name="IPAMConfig")
    links: Texts = None
    aliases: Texts = None
    mac_address: Text = None
    driver_opts: dict[str, str] | None = None
    gw_priority: int | None = None


class NetworkingConfig(Struct, frozen=True, rename="pascal"):
    """Networks to join, by name."""

    endpoints_config: dict[str, EndpointBody | None] | None = None


class SubnetBody(Struct, frozen=True, rename="pascal"):
    """One subnet of a network."""

    subnet: Text = None
    ip_range: Text = field(default=None, name="IPRange")
    gateway: Text = None
    auxiliary_addresses: dict[str, str] | None = None


class IpamBody(Struct, frozen=True, rename="pascal"):
    """The addresses of a network."""

    driver: Text = None
    config: list[SubnetBody] | None = None
    options: dict[str, str] | None = None


class NetworkBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /networks/create`."""

    name: Text = None
    driver: Text = None
    scope: Text = None
    internal: Yes = None
    ingress: Yes = None
    config_only: Yes = None
    enable_ipv4: Yes = field(default=None, name="EnableIPv4")
    enable_ipv6: Yes = field(default=None, name="EnableIPv6")
    ipam: IpamBody | None = field(default=None, name="IPAM")
    options: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class ConnectBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /networks/{id}/connect`."""

    container: Text = None
    endpoint_config: EndpointBody | None = None


class DisconnectBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /networks/{id}/disconnect`."""

    container: Text = None
    force: Yes = None


class Healthcheck(Struct, frozen=True, rename="pascal"):
    """`--health-cmd`."""

    test: Texts = None


class ContainerBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /containers/create`."""

    image: Text = None
    hostname: Text = None
    domainname: Text = None
    user: Text = None
    attach_stdin: Yes = None
    attach_stdout: Yes = None
    attach_stderr: Yes = None
    tty: Yes = None
    open_stdin: Yes = None
    stdin_once: Yes = None
    env: Texts = None
    cmd: Words = None
    entrypoint: Words = None
    healthcheck: Healthcheck | None = None
    volumes: dict[str, Anything] | None = None
    working_dir: Text = None
    network_disabled: Yes = None
    exposed_ports: dict[str, Anything] | None = None
    mac_address: Text = None
    labels: dict[str, str] | None = None
    stop_signal: Text = None
    stop_timeout: int | None = None
    host_config: HostConfig | None = None
    networking_config: NetworkingConfig | None = None


class ExecBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /containers/{id}/exec`."""

    cmd: Words = None
    user: Text = None
    privileged: Yes = None
    tty: Yes = None
    attach_stdin: Yes = None
    attach_stdout: Yes = None
    attach_stderr: Yes = None
    detach_keys: Text = None
    env: Texts = None
    working_dir: Text = None
    console_size: tuple[int, int] | None = None


class ExecStartBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /exec/{id}/start`; `console_size` is height and width."""

    detach: Yes = None
    tty: Yes = None
    console_size: tuple[int, int] | None = None


class KernelBody(Struct, frozen=True, rename="pascal"):
    """Body of `POST /atoll/kernels`: exactly one of `package`, `binary` (with `modules`), `host`."""

    package: Text = None
    binary: Text = None
    modules: Text = None
    host: Yes = None


def decode(body: bytes, kind: type[T]) -> T:
    """The body as `kind`; raises `InvalidRequest` naming the field."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the request's body is not what it should be: {error}") from error


def terminal_size(console_size: tuple[int, int] | None) -> Terminal:
    """Docker's `ConsoleSize`, height and width; nothing, or zeros, is the usual 24 by 80."""
    if console_size is None or 0 in console_size:
        return Terminal()
    return Terminal(rows=console_size[0], columns=console_size[1])


def is_there(value: object) -> bool:
    """Whether a client said anything by `value`: not null, empty, zero or false."""
    if isinstance(value, msgspec.Raw):
        return bytes(value) not in (b"null", b"{}", b"[]", b'""', b"0", b"false")
    return bool(value)
