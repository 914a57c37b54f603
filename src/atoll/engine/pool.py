"""The pool: clones that have rehearsed and wait for a container, so that a start costs about as much as an exec.

It is refilled in the background, one clone at a time and while no start is under way. What it keeps follows what is
asked for: each of the last starts has a say in the sizes. It is emptied when nothing was started for a while, when the
host's memory is short, and when its clones are not what a start would get now (another kernel, another QEMU).
"""

import asyncio
import logging
import os
import secrets
import shutil
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import msgspec

from atoll.engine.admission import Admission
from atoll.engine.services import Tasks
from atoll.engine.sizing import VmSize
from atoll.engine.stage import Stages
from atoll.engine.templates import Templates
from atoll.errors import AtollError
from atoll.kernel import Kernel
from atoll.model.container import SpareSpec, VmSpec
from atoll.paths import Paths
from atoll.runtime.client import RuntimeClient
from atoll.runtime.spawner import Spawner
from atoll.settings import Settings
from atoll.template import TemplateKey

log = logging.getLogger("atoll.engine")

_REMEMBERED_STARTS = 8
_SPARE_MIB = 192
"""What a spare takes of the host, about: the pool is not filled when there is less."""
_SPARE_UIDS = 1 << 20
"""Users of spares are so far above those of containers."""
_NAME = "spare-"

MakeVm = Callable[[VmSize], Awaitable[tuple[Kernel, VmSpec]]]


@dataclass(frozen=True)
class _Spare:
    size: VmSize
    key: TemplateKey
    runtime: RuntimeClient
    directory: Path
    run_dir: Path


class Pool:
    """The spares of one engine; `make_vm` says what a VM of a size is made of now."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        templates: Templates,
        stages: Stages,
        spawner: Spawner,
        admission: Admission,
        tasks: Tasks,
        make_vm: MakeVm,
        usual: VmSize,
    ) -> None:
        self._paths = paths
        self._settings = settings
        self._templates = templates
        self._stages = stages
        self._spawner = spawner
        self._admission = admission
        self._tasks = tasks
        self._make_vm = make_vm
        self._spares: list[_Spare] = []
        self._asked = deque([usual], maxlen=_REMEMBERED_STARTS)
        self._used_s = monotonic()
        self._refilling: asyncio.Task[None] | None = None
        self._is_closed = False
        self._uids_taken = 0
        shutil.rmtree(paths.spares, ignore_errors=True)
        paths.spares.mkdir(mode=0o700, parents=True)

    @property
    def ready(self) -> int:
        """How many clones are ready."""
        return len(self._spares)

    async def claim(self, size: VmSize, key: TemplateKey, config: Path, run_dir: Path) -> RuntimeClient | None:
        """A ready runtime, now that of the container whose `BundleSpec` is in `config`; None when there is none."""
        self._asked.append(size)
        self._used_s = monotonic()
        for spare in [spare for spare in self._spares if _fits(spare, size, key)]:
            self._spares.remove(spare)
            try:
                spare.run_dir.rename(run_dir)
                await spare.runtime.claim(config)
            except (AtollError, OSError) as error:
                log.warning("a clone that was kept ready is of no use: %s", error)
                await self._end(spare)
                shutil.rmtree(run_dir, ignore_errors=True)
                continue
            self._tasks.spawn(_remove(spare.directory), "removal of a claimed clone's files")
            return spare.runtime
        return None

    def refill(self) -> None:
        """Have the pool filled in the background, and what is of no use in it ended."""
        if self._refilling is None and not self._is_closed:
            self._refilling = self._tasks.spawn(self._refill(), "refill of the pool")
            self._refilling.add_done_callback(self._refilled)

    def renew(self) -> None:
        """All clones that are ready are of no use any more: end them, and have others made."""
        useless, self._spares = self._spares, []
        for spare in useless:
            self._tasks.spawn(self._end(spare), "end of a clone that is of no use any more")
        self.refill()

    async def tidy_up(self) -> None:
        """End spares that nobody has asked for, or whose memory the host needs."""
        if self._spares and not self._admission.has_room(0):
            log.info("the host is short of memory: ending %d clones that were kept ready", len(self._spares))
            await self._drain()
        elif self._spares and self._is_idle():
            await self._drain()

    async def close(self) -> None:
        """End all spares."""
        self._is_closed = True
        if self._refilling is not None:
            self._refilling.cancel()
            await asyncio.wait([self._refilling])
        await self._drain()

    def _is_idle(self) -> bool:
        return monotonic() - self._used_s > self._settings.pool_idle_s

    def _refilled(self, _: "asyncio.Task[None]") -> None:
        self._refilling = None

    async def _refill(self) -> None:
        while not self._is_closed and not self._is_idle():
            await self._admission.quiet()
            for spare in self._spares.copy():
                # Claimed or ended meanwhile, it is nobody's to end.
                if not await self._is_wanted(spare) and spare in self._spares:
                    self._spares.remove(spare)
                    await self._end(spare)
            size = self._missing()
            if size is None or not self._admission.has_room(_SPARE_MIB):
                return
            made = await self._make(size)
            if made is None:
                return
            self._spares.append(made)

    def _wanted(self) -> Counter[VmSize]:
        """How many clones of which size: the share that each has of the last starts, the latest first to be served."""
        wanted: Counter[VmSize] = Counter()
        asked = Counter(self._asked)
        for _ in range(self._settings.pool_size):
            wanted[max(reversed(self._asked), key=lambda size: asked[size] / (wanted[size] + 1))] += 1
        return wanted

    def _missing(self) -> VmSize | None:
        there = Counter(spare.size for spare in self._spares)
        return next((size for size, count in self._wanted().items() if there[size] < count), None)

    async def _is_wanted(self, spare: _Spare) -> bool:
        there = sum(other.size == spare.size for other in self._spares)
        if there > self._wanted()[spare.size] or not spare.runtime.is_connected:
            return False
        try:
            found = await self._templates.find(*await self._make_vm(spare.size))
        except AtollError:
            return False
        if found is None:
            return False
        found[1].close()
        return found[0] == spare.key

    async def _make(self, size: VmSize) -> _Spare | None:
        """A clone that has rehearsed; None, logged, when there is no template or it fails."""
        try:
            kernel, vm = await self._make_vm(size)
        except AtollError as error:
            log.info("no clone can be kept ready: %s", error)
            return None
        found = await self._templates.find(kernel, vm)
        if found is None:
            return None
        key, template = found
        name = _NAME + secrets.token_hex(3)
        directory, run_dir = self._paths.spares / name, self._paths.run / name
        try:
            directory.mkdir(mode=0o700)
            stage = await self._stages.build(directory)
            spec = SpareSpec(
                **msgspec.structs.asdict(vm)
                | {
                    "run_dir": str(run_dir),
                    "name": f"atoll-{name}",
                    "vm_uid": self._free_uid(),
                    "stage_image": str(stage.image),
                    "stage_writable": str(stage.writable),
                }
            )
            config = directory / "config.json"
            config.write_bytes(msgspec.json.encode(spec))
            await self._spawner.spawn(config, template.saved, is_spare=True, deadline_s=self._settings.boot_timeout_s)
            return _Spare(size, key, await RuntimeClient.connect(run_dir), directory, run_dir)
        except BaseException as error:
            shutil.rmtree(directory, ignore_errors=True)
            shutil.rmtree(run_dir, ignore_errors=True)
            if not isinstance(error, (AtollError, OSError)):
                raise
            log.warning("no clone can be kept ready: %s", error)
            if isinstance(error, AtollError):
                self._templates.discard(key, str(error))
            return None
        finally:
            template.close()

    async def _drain(self) -> None:
        while self._spares:
            await self._end(self._spares.pop())

    async def _end(self, spare: _Spare) -> None:
        spare.runtime.kill()
        try:
            await spare.runtime.wait_gone()
        finally:
            await spare.runtime.close()
            shutil.rmtree(spare.run_dir, ignore_errors=True)
            shutil.rmtree(spare.directory, ignore_errors=True)

    def _free_uid(self) -> int | None:
        """A user that no other VM runs as: those of earlier engines' containers may still be there."""
        if os.geteuid() != 0:
            return None
        first = self._settings.vm_uid_first + _SPARE_UIDS
        in_use = {status.st_uid for status in _process_owners()}
        while True:
            uid = first + self._uids_taken % _SPARE_UIDS
            self._uids_taken += 1
            if uid not in in_use:
                return uid


def _fits(spare: _Spare, size: VmSize, key: TemplateKey) -> bool:
    """Memory can be added to a spare as it is claimed, processors cannot."""
    is_size = spare.size.cpus == size.cpus and spare.size.memory_mib <= size.memory_mib
    return is_size and spare.key == key and spare.runtime.is_connected


async def _remove(directory: Path) -> None:
    await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


def _process_owners() -> list[os.stat_result]:
    owners = []
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            try:
                owners.append(entry.stat())
            except OSError:
                continue
    return owners
