"""From what the user asked for to what the agent does: `ContainerConfig` -> `Start`, `ExecStart` -> `Exec`.

Pure functions, and the one place for Docker's defaults about a container's inside: environment, capabilities,
paths that are masked or read-only, limits. Source of the defaults: what `docker run` shows inside a container.
"""

import os
import posixpath
import time
from collections.abc import Mapping

from msgspec.structs import replace

from atoll.errors import InvalidRequest
from atoll.guest.capabilities import capabilities
from atoll.guest.identity_files import identity_files
from atoll.model.agent import Disk, Exec, Extent, HashTree, Limits, Mount, Process, Profile, Rlimit, Root, Start, Stdio
from atoll.model.container import ContainerConfig
from atoll.model.network import Interface
from atoll.model.runtime import ExecStart

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
UNLIMITED = 2**64 - 1

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# What containers see under dockerd as Debian starts it; the guest's own defaults are those of a bare PID 1.
_RLIMITS = {
    "core": Rlimit(name="core", soft=UNLIMITED, hard=UNLIMITED),
    "nofile": Rlimit(name="nofile", soft=1_048_576, hard=1_048_576),
    "nproc": Rlimit(name="nproc", soft=UNLIMITED, hard=UNLIMITED),
}
# Docker's, so that a process without capabilities may ping and serve on port 80.
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}

_NANO = 1_000_000_000
_PERIOD_US = 100_000


_ENTROPY_BYTES = 64


def start_request(
    config: ContainerConfig,
    *,
    id: str,
    layers: tuple[Extent, ...],
    trees: tuple[HashTree, ...] = (),
    image: Disk,
    writable: Disk | None,
    stdio: Stdio,
    mounts: tuple[Mount, ...] = (),
    interfaces: tuple[Interface, ...] = (),
    resolvers: tuple[str, ...] = (),
    host_gateway: str = "",
    growth_mib: int = 0,
    hold: bool = False,
    waits: bool = False,
) -> Start:
    """The request that starts a container, here and now: it carries the time, and randomness for this start alone.

    `growth_mib` of memory are on their way to the guest. With `hold` nothing of it runs, with `waits` nothing before
    `proceed`. Raises `InvalidRequest` for what nobody could carry out.
    """
    return Start(
        hostname=config.hostname,
        domainname=config.domainname,
        entropy=os.urandom(_ENTROPY_BYTES),
        clock_ns=time.time_ns(),
        growth_bytes=growth_mib << 20,
        root=Root(image=image, layers=layers, trees=trees, writable=writable, read_only=config.read_only),
        mounts=mounts,
        interfaces=_without_disabled(interfaces, config.sysctls),
        files=_without_mounted(identity_files(config, id, interfaces, resolvers, host_gateway), mounts),
        sysctls=_SYSCTLS | config.sysctls,
        limits=limits(config),
        profile=profile(config),
        init=config.init,
        hold=hold,
        waits=waits,
        process=Process(
            arguments=_arguments(config.entrypoint + config.command),
            environment=environment(config, terminal=config.terminal),
            working_dir=config.working_dir or "/",
            user=config.user,
            groups=config.groups,
            capabilities=capabilities(config.cap_add, config.cap_drop, config.privileged),
            rlimits=rlimits(config),
            no_new_privileges=config.no_new_privileges,
            oom_score_adj=config.oom_score_adj,
            terminal=config.terminal_size if config.terminal else None,
            stdio=stdio,
        ),
    )


def _without_disabled(interfaces: tuple[Interface, ...], sysctls: Mapping[str, str]) -> tuple[Interface, ...]:
    """Where a user switches IPv6 off, as images that cannot do with it want, there is none to be configured."""
    if all(sysctls.get(f"net.ipv6.conf.{which}.disable_ipv6", "0") == "0" for which in ("all", "default")):
        return interfaces
    return tuple(
        replace(
            interface,
            addresses=tuple(address for address in interface.addresses if ":" not in address),
            gateways=tuple(gateway for gateway in interface.gateways if ":" not in gateway),
        )
        for interface in interfaces
    )


def _without_mounted(files: dict[str, bytes], mounts: tuple[Mount, ...]) -> dict[str, bytes]:
    """Docker leaves alone what the user mounts there (`-v hosts:/etc/hosts`)."""
    targets = {posixpath.normpath(mount.target) for mount in mounts}
    return {path: content for path, content in files.items() if path not in targets}


def profile(config: ContainerConfig) -> Profile:
    """What the container's /proc, /dev and /sys are like."""
    return Profile(
        masked_paths=() if config.privileged else MASKED_PATHS,
        readonly_paths=() if config.privileged else READONLY_PATHS,
        privileged=config.privileged,
        shm_bytes=config.shm_bytes,
    )


def exec_request(config: ContainerConfig, asked: ExecStart, stdio: Stdio) -> Exec:
    """The request for one more process: what `asked` leaves empty is as in the container's first process."""
    process = asked.process
    privileged = asked.privileged or config.privileged
    return Exec(
        id=asked.id,
        privileged=asked.privileged,
        process=Process(
            arguments=_arguments(process.arguments),
            environment=environment(config, process.environment, terminal=process.terminal is not None),
            working_dir=process.working_dir or "/",
            user=process.user or config.user,
            groups=process.groups or config.groups,
            capabilities=process.capabilities or capabilities(config.cap_add, config.cap_drop, privileged),
            rlimits=process.rlimits or rlimits(config),
            no_new_privileges=process.no_new_privileges or config.no_new_privileges,
            oom_score_adj=process.oom_score_adj or config.oom_score_adj,
            terminal=process.terminal,
            stdio=stdio,
        ),
    )


def environment(config: ContainerConfig, more: tuple[str, ...] = (), *, terminal: bool) -> tuple[str, ...]:
    """PATH, HOSTNAME, TERM (with a terminal), then the container's own variables, then `more`.

    A later value replaces an earlier one in its place; a name without `=` takes the variable away. HOME
    is the agent's to add: it comes from the image's /etc/passwd.
    """
    variables = {"PATH": f"PATH={DEFAULT_PATH}", "HOSTNAME": f"HOSTNAME={config.hostname}"}
    if terminal:
        variables["TERM"] = "TERM=xterm"
    for entry in (*config.environment, *more):
        name, equals, _ = entry.partition("=")
        if equals:
            variables[name] = entry
        else:
            variables.pop(name, None)
    return tuple(variables.values())


def rlimits(config: ContainerConfig) -> tuple[Rlimit, ...]:
    """Docker's defaults, replaced by `--ulimit`."""
    chosen = _RLIMITS | {limit.name: limit for limit in config.rlimits}
    for limit in chosen.values():
        if limit.soft > limit.hard:
            raise InvalidRequest(f"bad ulimit {limit.name}: its soft limit {limit.soft} is above its hard one")
    return tuple(chosen[name] for name in sorted(chosen))


def limits(config: ContainerConfig) -> Limits:
    """The cgroup's limits. `memory_swap_bytes` is what may be swapped, not Docker's sum of memory and swap."""
    period_us = config.cpu_period_us or _PERIOD_US
    quota_us = config.cpu_quota_us if config.cpu_quota_us and config.cpu_quota_us > 0 else None
    if config.nano_cpus:
        quota_us = max(1000, config.nano_cpus * period_us // _NANO)  # 1 ms is the least that the kernel takes
    swap_bytes = None
    if config.memory_bytes and config.memory_swap_bytes is not None and config.memory_swap_bytes > 0:
        swap_bytes = max(0, config.memory_swap_bytes - config.memory_bytes)
    return Limits(
        memory_bytes=config.memory_bytes or None,
        memory_swap_bytes=swap_bytes,
        cpu_quota_us=quota_us,
        cpu_period_us=period_us,
        cpu_shares=config.cpu_shares or None,
        pids=config.pids_limit if config.pids_limit and config.pids_limit > 0 else None,
    )


def _arguments(arguments: tuple[str, ...]) -> tuple[str, ...]:
    if not arguments or not arguments[0]:
        raise InvalidRequest("no command given: neither the image nor the request names one")
    return arguments
