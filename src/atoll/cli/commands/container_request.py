"""From flags to what the engine is asked for (Docker Engine API reference, `POST /containers/create`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import ContainerFlags
from atoll.cli.errors import ENGINE_ERROR, Failure
from atoll.cli.terminal.mode import terminal_size
from atoll.cli.values.environment import key_values, labels, variables
from atoll.cli.values.mounts import split_volumes
from atoll.cli.values.networks import endpoint, joined
from atoll.cli.values.ports import Published

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Object


def container_request(flags: ContainerFlags, image: str, command: Sequence[str], *, detached: bool) -> "Object":
    """The body of the request; what was not asked for is left out, so that the engine's defaults hold.

    Raises `Failure` for flags that contradict one another, `InvalidRequest` for a file that cannot be read.
    """
    if flags.rm and flags.restart["Name"] not in ("", "no"):
        raise Failure("conflicting options: cannot specify both --restart and --rm", ENGINE_ERROR)
    streams = attached_streams(flags, detached=detached)
    binds, anonymous = split_volumes(flags.volume)
    mode, endpoints = _networks(flags)
    published = [port for ports in flags.publish for port in ports]
    exposed = [port for ports in flags.expose for port in ports] + [port.port for port in published]
    given: dict[str, object] = {
        "Image": image,
        "Cmd": list(command) or None,
        "Entrypoint": None if flags.entrypoint is None else [flags.entrypoint],
        "Env": variables(flags.env_file, flags.env),
        "Labels": labels(flags.label_file, flags.label),
        "Hostname": flags.hostname,
        "Domainname": flags.domainname,
        "User": flags.user,
        "WorkingDir": flags.workdir,
        "Tty": flags.tty,
        "OpenStdin": flags.interactive,
        "StdinOnce": flags.interactive and "stdin" in streams,
        "AttachStdin": "stdin" in streams,
        "AttachStdout": "stdout" in streams,
        "AttachStderr": "stderr" in streams,
        "StopSignal": flags.stop_signal,
        "StopTimeout": flags.stop_timeout,
        "Volumes": {target: {} for target in anonymous} or None,
        "ExposedPorts": {port: {} for port in exposed} or None,
        "HostConfig": _host_config(flags, binds, mode, published),
        "NetworkingConfig": {"EndpointsConfig": endpoints} if endpoints else None,
    }
    return _without_none(given)


def attached_streams(flags: ContainerFlags, *, detached: bool) -> set[str]:
    """Which of the process's streams we are attached to: those of `-a`, else its output; stdin with `-i`."""
    if detached:
        return set()
    streams = set(flags.attach) or {"stdout", "stderr"}
    return streams | {"stdin"} if flags.interactive else streams


def _networks(flags: ContainerFlags) -> "tuple[str | None, dict[str, Object]]":
    try:
        own = endpoint(ip=flags.ip, ip6=flags.ip6, mac=flags.mac_address, aliases=flags.network_alias)
        return joined(flags.network, own)
    except ValueError as error:
        raise Failure(str(error), ENGINE_ERROR) from None


def _port_bindings(published: Sequence[Published]) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for port in published:
        found.setdefault(port.port, []).append({"HostIp": port.host_ip, "HostPort": port.host_port})
    return found


def _atoll(flags: ContainerFlags) -> "Object":
    """What Docker does not have."""
    given: Object = {"Verify": True} if flags.verify else {}
    if flags.egress:
        given["Egress"] = list(flags.egress)
    return given


def _host_config(
    flags: ContainerFlags, binds: Sequence[str], mode: str | None, published: Sequence[Published]
) -> "Object":
    storage = key_values(flags.storage_opt)
    if flags.disk is not None:
        storage["size"] = flags.disk
    logging = {"Type": flags.log_driver or "", "Config": key_values(flags.log_opt)}
    size = terminal_size() if flags.tty else None
    given: dict[str, object] = {
        "Atoll": _atoll(flags) or None,
        "AutoRemove": flags.rm or None,
        "Binds": list(binds) or None,
        "CapAdd": list(flags.cap_add) or None,
        "CapDrop": list(flags.cap_drop) or None,
        "ConsoleSize": list(size) if size else None,
        "CpuPeriod": flags.cpu_period,
        "CpuQuota": flags.cpu_quota,
        "CpuShares": flags.cpu_shares,
        "Dns": list(flags.dns) or None,
        "DnsOptions": list(flags.dns_option) or None,
        "DnsSearch": list(flags.dns_search) or None,
        "ExtraHosts": list(flags.add_host) or None,
        "GroupAdd": list(flags.group_add) or None,
        "Init": flags.init,
        "LogConfig": logging if flags.log_driver or flags.log_opt else None,
        "Memory": flags.memory,
        "MemorySwap": flags.memory_swap,
        "Mounts": list(flags.mount) or None,
        "NanoCpus": flags.cpus,
        "NetworkMode": mode,
        "OomScoreAdj": flags.oom_score_adj,
        "PortBindings": _port_bindings(published) or None,
        "PublishAllPorts": flags.publish_all or None,
        "PidsLimit": flags.pids_limit,
        "Privileged": flags.privileged or None,
        "ReadonlyRootfs": flags.read_only or None,
        "RestartPolicy": flags.restart,
        "SecurityOpt": list(flags.security_opt) or None,
        "ShmSize": flags.shm_size,
        "StorageOpt": storage or None,
        "Sysctls": key_values(flags.sysctl) or None,
        "Tmpfs": _tmpfs(flags.tmpfs) or None,
        "Ulimits": list(flags.ulimit) or None,
        "VolumeDriver": flags.volume_driver,
        "VolumesFrom": list(flags.volumes_from) or None,
    }
    return _without_none(given)


def _tmpfs(texts: Sequence[str]) -> dict[str, str]:
    """`/target:options`."""
    pairs = (text.partition(":") for text in texts)
    return {target: options for target, _, options in pairs}


def _without_none(given: dict[str, object]) -> "Object":
    found: dict[str, Json] = {}
    for name, value in given.items():
        if value is not None:
            found[name] = value  # type: ignore[assignment]  # built of JSON just above
    return found
