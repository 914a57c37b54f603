"""A container's record in Docker's words: `GET /containers/{id}/json` and one row of `GET /containers/json`."""

from datetime import UTC, datetime
from typing import TypeAlias

from atoll.api.egress import egress_text
from atoll.api.endpoints import NONE, FindNetwork, networks_json, settings_json
from atoll.api.human import state_word, status, timestamp
from atoll.api.mounts import binds_json, mounts_json
from atoll.api.ports import bindings_json, exposed_json, port_rows
from atoll.engine.record import ContainerRecord
from atoll.engine.volumes import Volumes
from atoll.guest.start_request import MASKED_PATHS, READONLY_PATHS
from atoll.model.container import ContainerConfig, ContainerState
from atoll.paths import Paths

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


_UNLIMITED = 2**64 - 1


def container_json(
    record: ContainerRecord,
    paths: Paths,
    volumes: Volumes,
    network: FindNetwork,
    exec_ids: list[str],
    sizes: dict[str, int],
) -> Json:
    """All of a container; `sizes` is empty unless the client asked for `SizeRw` and `SizeRootFs`."""
    config = record.config
    command = [*config.entrypoint, *config.command]
    bundle = paths.bundle(record.id)
    return {
        "Id": record.id,
        "Created": timestamp(record.created_at),
        "Path": command[0],
        "Args": list(command[1:]),
        "State": _state(record),
        "Image": config.image_id,
        "ResolvConfPath": "",
        "HostnamePath": "",
        "HostsPath": "",
        "LogPath": str(bundle / "log"),
        "Name": f"/{record.name}",
        "RestartCount": record.restart_count,
        "Driver": "squashfs",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": list(exec_ids) or None,
        "HostConfig": _host_config(config),
        "GraphDriver": {"Name": "squashfs", "Data": {"Bundle": str(bundle)}},
        **sizes,
        "Mounts": [dict(row) for row in mounts_json(config, volumes)],
        "Config": _config(config),
        "NetworkSettings": settings_json(record, network),
    }


def container_row(
    record: ContainerRecord, volumes: Volumes, network: FindNetwork, image: str, sizes: dict[str, int]
) -> Json:
    """One row of the list; `image` is the name it still has, or the id."""
    config = record.config
    return {
        "Id": record.id,
        "Names": [f"/{record.name}"],
        "Image": image,
        "ImageID": config.image_id,
        "Command": _shown_command([*config.entrypoint, *config.command]),
        "Created": int(record.created_at.timestamp()),
        "Ports": [dict(row) for row in port_rows(record)],
        **sizes,
        "Labels": dict(config.labels),
        "State": state_word(record),
        "Status": status(record, datetime.now(UTC)),
        "HostConfig": {"NetworkMode": config.network_mode or NONE},
        "NetworkSettings": {"Networks": {name: dict(found) for name, found in networks_json(record, network).items()}},
        "Mounts": [dict(row) for row in mounts_json(config, volumes)],
    }


def _state(record: ContainerRecord) -> Json:
    return {
        "Status": state_word(record),
        "Running": record.is_running,
        "Paused": record.state is ContainerState.PAUSED,
        "Restarting": record.restarting,
        "OOMKilled": record.out_of_memory,
        "Dead": record.state is ContainerState.DEAD,
        "Pid": record.pid,
        "ExitCode": record.exit_code,
        "Error": record.error,
        "StartedAt": timestamp(record.started_at),
        "FinishedAt": timestamp(record.finished_at if record.started_at is not None else None),
    }


def _config(config: ContainerConfig) -> Json:
    shown: dict[str, Json] = {
        "Hostname": config.hostname,
        "Domainname": config.domainname,
        "User": config.user,
        "AttachStdin": config.attach_stdin,
        "AttachStdout": config.attach_stdout,
        "AttachStderr": config.attach_stderr,
        "ExposedPorts": exposed_json(config),
        "Tty": config.terminal,
        "OpenStdin": config.open_stdin,
        "StdinOnce": config.stdin_once,
        "Env": list(config.environment),
        "Cmd": list(config.command) or None,
        "Image": config.image,
        "Volumes": {mount.target: {} for mount in config.mounts if mount.is_anonymous} or None,
        "WorkingDir": config.working_dir,
        "Entrypoint": list(config.entrypoint) or None,
        "OnBuild": None,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
    }
    if config.stop_timeout_s is not None:
        shown["StopTimeout"] = config.stop_timeout_s
    return shown


def _host_config(config: ContainerConfig) -> Json:
    log_options = {"max-size": config.log_max_bytes, "max-file": config.log_max_files}
    return {
        "Binds": list(binds_json(config) or ()) or None,
        "ContainerIDFile": "",
        "LogConfig": {
            "Type": "json-file",
            "Config": {option: str(value) for option, value in log_options.items() if value is not None},
        },
        "NetworkMode": config.network_mode or NONE,
        "PortBindings": bindings_json(config),
        "RestartPolicy": {"Name": config.restart.name, "MaximumRetryCount": config.restart.maximum_retries},
        "AutoRemove": config.auto_remove,
        "VolumeDriver": "",
        "VolumesFrom": None,
        "ConsoleSize": [config.terminal_size.rows, config.terminal_size.columns] if config.terminal else [0, 0],
        "CapAdd": _capability_names(config.cap_add),
        "CapDrop": _capability_names(config.cap_drop),
        "CgroupnsMode": "private",
        "Dns": list(config.dns),
        "DnsOptions": list(config.dns_options),
        "DnsSearch": list(config.dns_search),
        "ExtraHosts": list(config.extra_hosts) or None,
        "GroupAdd": list(config.groups) or None,
        "IpcMode": "private",
        "Cgroup": "",
        "Links": None,
        "OomScoreAdj": config.oom_score_adj,
        "PidMode": "",
        "Privileged": config.privileged,
        "PublishAllPorts": config.publish_all,
        "ReadonlyRootfs": config.read_only,
        "SecurityOpt": ["no-new-privileges"] if config.no_new_privileges else None,
        "StorageOpt": {"size": str(config.disk_bytes)} if config.disk_bytes is not None else None,
        "Atoll": {"Verify": config.verify, "Egress": egress_text(config.egress)},
        "Tmpfs": dict(config.tmpfs) or None,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": config.shm_bytes,
        "Sysctls": dict(config.sysctls) or None,
        "Runtime": "atoll",
        "Isolation": "",
        "CpuShares": config.cpu_shares or 0,
        "Memory": config.memory_bytes or 0,
        "NanoCpus": config.nano_cpus or 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuPeriod": config.cpu_period_us or 0,
        "CpuQuota": config.cpu_quota_us or 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": "",
        "CpusetMems": "",
        "Devices": [],
        "DeviceCgroupRules": None,
        "DeviceRequests": None,
        "MemoryReservation": 0,
        "MemorySwap": config.memory_swap_bytes or 0,
        "MemorySwappiness": None,
        "OomKillDisable": None,
        "Init": config.init,
        "PidsLimit": config.pids_limit,
        "Ulimits": [
            {"Name": limit.name, "Soft": _limit(limit.soft), "Hard": _limit(limit.hard)} for limit in config.rlimits
        ],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        "MaskedPaths": None if config.privileged else list(MASKED_PATHS),
        "ReadonlyPaths": None if config.privileged else list(READONLY_PATHS),
    }


def _capability_names(names: tuple[str, ...]) -> list[Json] | None:
    return [name if name == "ALL" else f"CAP_{name}" for name in names] or None


def _limit(value: int) -> int:
    return -1 if value == _UNLIMITED else value


def _shown_command(words: list[str]) -> str:
    """The command as Docker lists it: arguments with a blank in quotes."""
    return " ".join(f"'{word}'" if number and " " in word else word for number, word in enumerate(words))
