"""How big a container's VM is."""

from dataclasses import dataclass

from atoll.engine.status import host_cpus
from atoll.model.container import ContainerConfig
from atoll.settings import Settings

_MIB = 1 << 20
_LEAST_MEMORY_MIB = 128
OWN_MEMORY_MIB = 96
"""What the guest's kernel and agent need beside a container that uses all of its `--memory`."""


@dataclass(frozen=True)
class VmSize:
    """Virtual CPUs, and memory in MiB."""

    cpus: int
    memory_mib: int


def vm_size(config: ContainerConfig, settings: Settings) -> VmSize:
    """The size of a container's VM."""
    return VmSize(virtual_cpus(config, settings), vm_memory_mib(config.memory_bytes, settings))


def default_size(settings: Settings) -> VmSize:
    """The size of a container's VM that was not asked for any."""
    return VmSize(max(1, min(settings.cpus, host_cpus())), settings.memory_mib)


def virtual_cpus(config: ContainerConfig, settings: Settings) -> int:
    """Virtual CPUs: `--cpus` rounded up, else the quota rounded up, else the setting; at most the host's."""
    wanted = settings.cpus
    if config.nano_cpus is not None:
        wanted = -(-config.nano_cpus // 1_000_000_000)
    elif config.cpu_quota_us is not None and config.cpu_quota_us > 0:
        wanted = -(-config.cpu_quota_us // (config.cpu_period_us or 100_000))
    return max(1, min(wanted, host_cpus()))


def vm_memory_mib(memory_bytes: int | None, settings: Settings) -> int:
    """The VM's memory in MiB: room for `--memory` and the guest's own needs, else the setting."""
    if memory_bytes is None:
        return settings.memory_mib
    return max(_LEAST_MEMORY_MIB, -(-memory_bytes // _MIB) + OWN_MEMORY_MIB)
