"""From flags to what the engine is asked for (Docker Engine API reference, `POST /containers/create`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import ContainerFlags
from atoll.cli.errors import ENGINE_ERROR, Failure
from atoll.cli.terminal.mode import terminal_size
from atoll.cli.values.environment import key_values, labels, variables
from atoll.cli.values.mounts import split_volumes

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
        "HostConfig": _host_config(flags, binds),
    }
    return _without_none(given)


def attached_streams(flags: ContainerFlags, *, detached: bool) -> set[str]:
    """Which of the process's streams we are attached to: those of `-a`, else its output; stdin with `-i`."""
    if detached:
        return set()
    streams = set(flags.attach) or {"stdout", "stderr"}
    return streams | {"stdin"} if flags.interactive else streams


def _host_config(flags: ContainerFlags, binds: Sequence[str]) -> "Object":
    storage = key_values(flags.storage_opt)
    if flags.disk is not None:
        storage["size"] = flags.disk
    logging = {"Type": flags.log_driver or "", "Config": key_values(flags.log_opt)}
    size = terminal_size() if flags.tty else None
    given: dict[str, object] = {
        "Atoll": {"Verify": True} if flags.verify else None,
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
        "NetworkMode": flags.network,
        "OomScoreAdj": flags.oom_score_adj,
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
