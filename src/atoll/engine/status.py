"""What the engine says about itself: `atoll system status`, and the figures of Docker's `info`."""

import asyncio
import os
import re
from typing import Literal

from msgspec import Struct

TCG_WARNING = (
    "containers run under TCG, QEMU's emulation: QEMU's project gives security support to KVM and not to TCG, "
    "so do not rely on this isolation for hostile code"
)


class AcceleratorStatus(Struct, frozen=True, kw_only=True, rename="pascal"):
    """`name` is None until the first start has tried, and `reason` says why it is what it is."""

    name: Literal["kvm", "tcg"] | None
    reason: str


class KernelStatus(Struct, frozen=True, kw_only=True, rename="pascal"):
    """The kernel that containers boot; `version` None with the `reason` when there is none."""

    version: str | None
    image: str = ""
    reason: str = ""


class ContainerCounts(Struct, frozen=True, kw_only=True, rename="pascal"):
    """How many containers there are."""

    total: int
    running: int
    paused: int
    stopped: int


class TemplateCounts(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Templates on disk, and those of them that a container could be a clone of now."""

    total: int
    current: int


class PoolStatus(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Clones that are ready, and how many are to be."""

    ready: int
    size: int


class EngineStatus(Struct, frozen=True, kw_only=True, rename="pascal"):
    """`GET /atoll/status`; `warnings` are sentences for the user."""

    version: str
    pid: int
    started_at: str
    root: str
    socket: str
    log: str
    settings_file: str
    kernel: KernelStatus
    accelerator: AcceleratorStatus
    qemu: str
    qemu_version: str
    containers: ContainerCounts
    images: int
    templates: TemplateCounts
    pool: PoolStatus
    warnings: list[str]


async def qemu_version(qemu: str) -> str | None:
    """The version that the QEMU program reports, None when it cannot be run."""
    try:
        process = await asyncio.create_subprocess_exec(
            qemu, "--version", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    output, _ = await process.communicate()
    match = re.search(rb"version (\S+)", output)
    return match[1].decode() if match else None


def host_memory_bytes() -> int:
    """The host's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def host_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))
