"""How guest code runs: what the settings force, else what a trial boot finds, once for each kernel."""

import asyncio
import os
from pathlib import Path

from atoll.engine.services import Tasks
from atoll.kernel import Kernel
from atoll.settings import Settings
from atoll.vmm import Accelerator, MachineSpec, QemuMonitor, probe

TRIAL_MEMORY_MIB = 256


class AcceleratorChoice:
    """Chooses the accelerator at the first start; `chosen` is None until then."""

    def __init__(self, settings: Settings, cache: Path, tasks: Tasks) -> None:
        self.chosen: Accelerator | None = None
        self._settings = settings
        self._cache = cache
        self._tasks = tasks
        self._trials: dict[str, asyncio.Future[Accelerator]] = {}

    async def choose(self, kernel: Kernel) -> Accelerator:
        """The accelerator for `kernel`; starts that come at once wait for one trial."""
        forced = self._settings.accelerator
        if forced != "auto":
            self.chosen = Accelerator(forced, "the settings, or --accel, say so")
            return self.chosen
        if kernel.digest not in self._trials:
            self._trials[kernel.digest] = self._tasks.begin(self._try(kernel), "trial of the accelerator")
        self.chosen = await asyncio.shield(self._trials[kernel.digest])
        return self.chosen

    async def _try(self, kernel: Kernel) -> Accelerator:
        trial = MachineSpec(
            kernel=kernel.image,
            initramfs=kernel.initramfs,
            cpus=1,
            memory_mib=TRIAL_MEMORY_MIB,
            accelerator="kvm",
            uid=self._settings.vm_uid_first if os.geteuid() == 0 else None,
            qemu=self._settings.qemu,
            name="atoll-trial",
        )
        return await probe(QemuMonitor(), trial, kernel_digest=kernel.digest, cache=self._cache)
