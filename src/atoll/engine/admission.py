"""Admission: how many starts are carried out at once, and whether the host's memory allows one more.

Starts beyond the limit wait in the order of their coming: thrashing would make all of them slower. Memory is
promised to containers, whether or not they use it; the settings say how often it may be promised.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from atoll.engine.status import host_cpus, host_memory_bytes
from atoll.errors import OutOfMemory
from atoll.settings import Settings

_MIB = 1 << 20
_STARTS_A_CPU = 2
_START_MIB = 64
"""What a VM takes of the host as it starts, about; the rest only as it uses it."""


class Admission:
    """Lets starts in. `promised_mib` says what the containers that run or are being started have been promised."""

    def __init__(self, settings: Settings, promised_mib: Callable[[], int]) -> None:
        self._settings = settings
        self._promised_mib = promised_mib
        self._at_once = settings.starts_at_once or _STARTS_A_CPU * host_cpus()
        self._places = asyncio.Semaphore(self._at_once)
        self._waiting = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    @asynccontextmanager
    async def start(self, name: str, memory_mib: int) -> AsyncIterator[None]:
        """A place for a start as long as the block lasts; `memory_mib` are promised already. Raises `OutOfMemory`."""
        self._check(name, memory_mib)
        self._waiting += 1
        self._quiet.clear()
        try:
            async with self._places:
                self._check_room(name)  # it may be gone since: others were let in before
                yield
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._quiet.set()

    @property
    def has_leisure(self) -> bool:
        """Whether no start is under way and the host could carry one more."""
        return not self._waiting and self.has_room(_START_MIB)

    async def quiet(self) -> None:
        """Wait until no start is under way: what can wait must not slow it."""
        await self._quiet.wait()

    def has_room(self, memory_mib: int) -> bool:
        """Whether the host has so much memory available beside its reserve."""
        return available_mib() - self._settings.memory_reserve_mib >= memory_mib

    def _check(self, name: str, memory_mib: int) -> None:
        settings = self._settings
        promised_mib = self._promised_mib()
        limit_mib = int(host_memory_bytes() / _MIB * settings.memory_overcommit)
        if promised_mib > limit_mib:
            raise OutOfMemory(
                f"cannot start container {name}: it may use {memory_mib} MiB, and {promised_mib - memory_mib} of the "
                f"{limit_mib} MiB that containers may be promised are taken: stop some, give it less with --memory, "
                "or raise the setting 'memory_overcommit'"
            )
        self._check_room(name)

    def _check_room(self, name: str) -> None:
        settings = self._settings
        if not self.has_room(_START_MIB):
            raise OutOfMemory(
                f"cannot start container {name}: the host has only {available_mib()} MiB of memory available, and "
                f"{settings.memory_reserve_mib} are kept in reserve: stop containers, or lower the setting "
                "'memory_reserve_mib'"
            )


def available_mib() -> int:
    """What the host could give away now without swapping (proc(5), MemAvailable)."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return host_memory_bytes() // _MIB
