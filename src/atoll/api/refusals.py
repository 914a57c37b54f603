"""What Docker has and Atoll does not (yet): refused by name, never ignored where it would change security or data."""

from typing import NoReturn

from atoll.api.schemas import ContainerBody, HostConfig, is_there
from atoll.errors import InvalidRequest, Unsupported

RUNTIMES = ("", "atoll", "runc", "io.containerd.runc.v2")
HARMLESS_SECURITY = ("seccomp=unconfined", "apparmor=unconfined", "label=disable")
"""Opt-outs of mechanisms that Atoll does not use inside the VM: nothing to do."""


def refuse_unsupported(body: ContainerBody) -> None:
    """Raise `Unsupported` for the first thing in `body` that we cannot do."""
    host = body.host_config or HostConfig()
    for value, what in (
        (host.links, "links (--link): containers of one network find each other by name"),
        (host.devices, "host devices (--device)"),
        (host.device_requests, "device requests (--gpus)"),
        (host.device_cgroup_rules, "--device-cgroup-rule"),
        (host.cgroup_parent, "--cgroup-parent"),
        (host.cgroup, "cgroup settings"),
        (host.cpuset_cpus, "--cpuset-cpus"),
        (host.cpuset_mems, "--cpuset-mems"),
        (host.cpu_realtime_period, "--cpu-rt-period"),
        (host.cpu_realtime_runtime, "--cpu-rt-runtime"),
        (host.oom_kill_disable, "--oom-kill-disable"),
        (host.blkio_weight, "--blkio-weight"),
        (host.blkio_weight_device, "--blkio-weight-device"),
        (host.blkio_device_read_bps, "--device-read-bps"),
        (host.blkio_device_write_bps, "--device-write-bps"),
        (host.blkio_device_read_iops, "--device-read-iops"),
        (host.blkio_device_write_iops, "--device-write-iops"),
    ):
        if is_there(value):
            _refuse(what)
    if body.healthcheck is not None and body.healthcheck.test not in (None, [], ["NONE"]):
        _refuse("health checks (--health-cmd)")
    if host.memory_swappiness not in (None, -1):
        _refuse("--memory-swappiness")
    _refuse_namespaces(host)
    if (host.runtime or "") not in RUNTIMES:
        raise InvalidRequest(f"unknown or invalid runtime name: {host.runtime}")
    if not host.privileged and (host.masked_paths is not None or host.readonly_paths is not None):
        _refuse("other masked or read-only paths than the default (--security-opt systempaths=unconfined)")
    if host.log_config is not None and (host.log_config.type or "json-file") not in ("json-file", "local"):
        _refuse(f"the log driver '{host.log_config.type}' (it has json-file)")


def _refuse_namespaces(host: HostConfig) -> None:
    for flag, mode, accepted in (
        ("--pid", host.pid_mode, ("",)),
        ("--ipc", host.ipc_mode, ("", "private", "shareable")),
        ("--uts", host.uts_mode, ("",)),
        ("--userns", host.userns_mode, ("", "host")),
        ("--cgroupns", host.cgroupns_mode, ("", "private")),
    ):
        if (mode or "") not in accepted:
            _refuse(f"{flag} {mode} (a container's namespaces are those of its own VM)")


def no_new_privileges(options: list[str]) -> bool:
    """Read `--security-opt`; raises `Unsupported` for what we do not have, `InvalidRequest` for nonsense."""
    wanted = False
    for option in options:
        name, _, value = option.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges":
            if value not in ("", "true", "false"):
                raise InvalidRequest(f'invalid --security-opt 2: "{option}"')
            wanted = value != "false"
        elif f"{name}={value}" not in HARMLESS_SECURITY:
            _refuse(f"--security-opt {option}")
    return wanted


def _refuse(what: str) -> NoReturn:
    raise Unsupported(f"atoll does not have {what} yet")
