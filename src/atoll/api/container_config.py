"""From Docker's words for a new container to `ContainerConfig`: merged with the image, checked, in Docker's messages.

The rules of merging are those of `POST /containers/create`: the user's settings win, lists of commands replace each
other, environment and labels are united by name.
"""

from collections.abc import Sequence
from ipaddress import ip_address

from atoll.api.egress import parse_egress
from atoll.api.endpoints import network_mode, network_wishes
from atoll.api.mounts import MountsOf, mount_points
from atoll.api.ports import exposed_ports, port_bindings
from atoll.api.refusals import no_new_privileges, refuse_unsupported
from atoll.api.schemas import ContainerBody, HostConfig, MountBody, Ulimit, Words, terminal_size
from atoll.engine.signals import signal_number
from atoll.engine.status import host_cpus
from atoll.engine.volume import parse_bytes
from atoll.errors import InvalidRequest, NotFound
from atoll.guest.capabilities import ALL
from atoll.image import Image
from atoll.model.agent import Rlimit
from atoll.model.container import ContainerConfig, RestartPolicy
from atoll.model.network import Egress

SMALLEST_MEMORY_BYTES = 6 << 20
HOSTNAME_BYTES = 64
DEFAULT_SHM_BYTES = 64 << 20
UNLIMITED = 2**64 - 1

CAPABILITIES = {*ALL, "ALL"}


def container_config(
    body: ContainerBody, image: Image, container_id: str, platform: str | None, mounts_of: MountsOf
) -> ContainerConfig:
    """The configuration of container `container_id`; raises `InvalidRequest`, `Unsupported`, `NotFound` (platform)."""
    refuse_unsupported(body)
    host = body.host_config or HostConfig()
    defaults = image.config.execution
    _check_platform(body.image or "", platform, str(image.config.platform))
    entrypoint, command = _what_runs(body, defaults.entrypoint or (), defaults.cmd or ())
    stop_signal = body.stop_signal or defaults.stop_signal or "SIGTERM"
    signal_number(stop_signal)
    log_bytes, log_files = _log_limits(host)
    _check_resources(host)
    ports = port_bindings(host)
    return ContainerConfig(
        image=body.image or "",
        image_id=image.id,
        entrypoint=entrypoint,
        command=command,
        environment=_environment(body.env or [], defaults.env or ()),
        working_dir=_working_dir(body.working_dir or defaults.working_dir),
        user=body.user or defaults.user,
        groups=tuple(host.group_add or ()),
        hostname=_hostname(body.hostname or container_id[:12]),
        domainname=body.domainname or "",
        labels={**(defaults.labels or {}), **(body.labels or {})},
        terminal=bool(body.tty),
        terminal_size=terminal_size(host.console_size),
        open_stdin=bool(body.open_stdin),
        stdin_once=bool(body.stdin_once),
        attach_stdin=bool(body.attach_stdin),
        attach_stdout=bool(body.attach_stdout),
        attach_stderr=bool(body.attach_stderr),
        stop_signal=stop_signal,
        stop_timeout_s=body.stop_timeout if body.stop_timeout is not None else defaults.stop_timeout,
        init=bool(host.init),
        read_only=bool(host.readonly_rootfs),
        tmpfs=_tmpfs(host),
        mounts=mount_points(body, defaults.volumes or (), mounts_of),
        shm_bytes=host.shm_size or DEFAULT_SHM_BYTES,
        nano_cpus=host.nano_cpus or None,
        cpu_shares=host.cpu_shares or None,
        cpu_quota_us=host.cpu_quota or None,
        cpu_period_us=host.cpu_period or None,
        memory_bytes=host.memory or None,
        memory_swap_bytes=host.memory_swap or None,
        pids_limit=host.pids_limit if host.pids_limit is not None and host.pids_limit > 0 else None,
        disk_bytes=_disk_bytes(host),
        verify=bool(host.atoll is not None and host.atoll.verify),
        rlimits=tuple(_rlimit(ulimit) for ulimit in host.ulimits or ()),
        cap_add=_capabilities("CapAdd", host.cap_add),
        cap_drop=_capabilities("CapDrop", host.cap_drop),
        privileged=bool(host.privileged),
        no_new_privileges=no_new_privileges(host.security_opt or []),
        sysctls=host.sysctls or {},
        oom_score_adj=host.oom_score_adj or 0,
        auto_remove=bool(host.auto_remove),
        restart=_restart_policy(host),
        extra_hosts=tuple(host.extra_hosts or ()),
        dns=_resolvers(host.dns or []),
        dns_search=tuple(host.dns_search or ()),
        dns_options=tuple(host.dns_options or ()),
        network_mode=network_mode(body),
        networks=network_wishes(body),
        ports=ports,
        exposed=exposed_ports(body.exposed_ports or (), defaults.exposed_ports or (), ports),
        publish_all=bool(host.publish_all_ports),
        egress=parse_egress(",".join(words(host.atoll.egress))) if host.atoll is not None else Egress(),
        log_max_bytes=log_bytes,
        log_max_files=log_files,
        platform=str(image.config.platform),
    )


def words(value: Words) -> tuple[str, ...]:
    """A list that may be written as one string."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str) else tuple(value)


def _check_platform(reference: str, wanted: str | None, actual: str) -> None:
    if wanted and not f"{actual}/".startswith(f"{wanted}/"):
        raise NotFound(
            f"image with reference {reference} was found but does not match the specified platform: "
            f"wanted {wanted}, actual: {actual}"
        )


def _what_runs(
    body: ContainerBody, image_entrypoint: Sequence[str], image_command: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    entrypoint, command = words(body.entrypoint), words(body.cmd)
    if not entrypoint:
        command = command or tuple(image_command)
        if body.entrypoint is None:
            entrypoint = tuple(image_entrypoint)
    if entrypoint == ("",):
        entrypoint = ()
    if not entrypoint and not command:
        raise InvalidRequest("no command specified")
    return entrypoint, command


def _environment(asked: Sequence[str], image: Sequence[str]) -> tuple[str, ...]:
    names = set()
    for entry in asked:
        name = entry.partition("=")[0]
        if not name:
            raise InvalidRequest(f"invalid environment variable: {entry}")
        names.add(name)
    inherited = [entry for entry in image if entry.partition("=")[0] not in names]
    # A name without a value takes the variable away.
    return (*(entry for entry in asked if "=" in entry), *inherited)


def _working_dir(directory: str) -> str:
    if directory and not directory.startswith("/"):
        raise InvalidRequest(f"the working directory '{directory}' is invalid, it needs to be an absolute path")
    return directory or "/"


def _hostname(name: str) -> str:
    if len(name.encode()) > HOSTNAME_BYTES:
        raise InvalidRequest(f'hostname "{name}" is too long (maximum {HOSTNAME_BYTES} bytes)')
    return name


def _capabilities(what: str, names: Words) -> tuple[str, ...]:
    found = []
    for name in words(names):
        bare = name.upper().removeprefix("CAP_")
        if bare not in CAPABILITIES:
            raise InvalidRequest(f'invalid {what}: unknown capability: "CAP_{bare}"')
        found.append(bare)
    return tuple(dict.fromkeys(found))


def _restart_policy(host: HostConfig) -> RestartPolicy:
    policy = host.restart_policy
    name = (policy.name or "no") if policy is not None else "no"
    retries = policy.maximum_retry_count if policy is not None else 0
    if name not in ("no", "always", "unless-stopped", "on-failure"):
        raise InvalidRequest(
            f"invalid restart policy: unknown policy '{name}'; "
            "use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        )
    if retries and name != "on-failure":
        raise InvalidRequest("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if retries < 0:
        raise InvalidRequest("invalid restart policy: maximum retry count cannot be negative")
    if host.auto_remove and name != "no":
        raise InvalidRequest("can't create 'AutoRemove' container with restart policy")
    return RestartPolicy(name=name, maximum_retries=retries)  # type: ignore[arg-type]  # one of the four, checked above


def _check_resources(host: HostConfig) -> None:
    memory, swap = host.memory or 0, host.memory_swap or 0
    if 0 < memory < SMALLEST_MEMORY_BYTES or memory < 0:
        raise InvalidRequest("Minimum memory limit allowed is 6MB")
    if swap > 0 and swap < memory:
        raise InvalidRequest("Minimum memoryswap limit should be larger than memory limit, see usage")
    if swap > 0 and not memory:
        raise InvalidRequest("You should always set the Memory limit when using Memoryswap limit, see usage")
    cpus = host_cpus()
    if host.nano_cpus and not 10_000_000 <= host.nano_cpus <= cpus * 1_000_000_000:
        raise InvalidRequest(f"range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available")
    if host.nano_cpus and (host.cpu_period or host.cpu_quota):
        other = "Period" if host.cpu_period else "Quota"
        raise InvalidRequest(f"Conflicting options: Nano CPUs and CPU {other} cannot both be set")
    if host.cpu_period and not 1000 <= host.cpu_period <= 1_000_000:
        raise InvalidRequest("CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)")
    if host.cpu_quota and 0 < host.cpu_quota < 1000:
        raise InvalidRequest("CPU cfs quota can not be less than 1ms (i.e. 1000)")
    if (host.cpu_shares or 0) < 0:
        raise InvalidRequest(f"invalid CPU shares ({host.cpu_shares}): value must be a positive integer")
    if (host.shm_size or 0) < 0:
        raise InvalidRequest("SHM size can not be less than 0")
    if not -1000 <= (host.oom_score_adj or 0) <= 1000:
        raise InvalidRequest(f"Invalid value {host.oom_score_adj}, range for oom score adj is [-1000, 1000]")


def _rlimit(ulimit: Ulimit) -> Rlimit:
    soft, hard = (UNLIMITED if value < 0 else value for value in (ulimit.soft, ulimit.hard))
    if soft > hard:
        raise InvalidRequest(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return Rlimit(name=ulimit.name.lower(), soft=soft, hard=hard)


def _tmpfs(host: HostConfig) -> dict[str, str]:
    mounted = dict(host.tmpfs or {})
    for mount in host.mounts or ():
        if mount.type == "tmpfs":
            mounted[mount.target] = _tmpfs_options(mount)
    for target in mounted:
        if not target.startswith("/"):
            raise InvalidRequest(f"invalid mount path: '{target}' mount path must be absolute")
    return mounted


def _tmpfs_options(mount: MountBody) -> str:
    options = ["ro"] if mount.read_only else []
    if mount.tmpfs_options is not None:
        options += [f"size={mount.tmpfs_options.size_bytes}"] if mount.tmpfs_options.size_bytes else []
        options += [f"mode={mount.tmpfs_options.mode:o}"] if mount.tmpfs_options.mode else []
    return ",".join(options)


def _resolvers(addresses: Sequence[str]) -> tuple[str, ...]:
    for address in addresses:
        try:
            ip_address(address)
        except ValueError:
            raise InvalidRequest(f"invalid DNS server: '{address}' is not an address") from None
    return tuple(addresses)


def _disk_bytes(host: HostConfig) -> int | None:
    for option, value in (host.storage_opt or {}).items():
        if option != "size":
            raise InvalidRequest(f"unknown storage option: {option}")
        return parse_bytes("storage-opt size", value)
    return None


def _log_limits(host: HostConfig) -> tuple[int | None, int | None]:
    largest = files = None
    for option, value in ((host.log_config.config if host.log_config is not None else None) or {}).items():
        if option == "max-size":
            largest = parse_bytes("log-opt max-size", value)
        elif option == "max-file":
            if not value.isdecimal() or int(value) < 1:
                raise InvalidRequest(f"invalid value '{value}' for log-opt max-file: a number from 1")
            files = int(value)
        else:
            raise InvalidRequest(f"unknown log opt '{option}' for json-file log driver")
    return largest, files
