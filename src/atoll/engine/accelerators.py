"""How guest code runs: what the settings force, else what a trial boot finds, once for each kernel."""

import asyncio
from pathlib import Path

from atoll.kernel import Kernel
from atoll.settings import Settings
from atoll.vmm import Accelerator


class AcceleratorChoice:
    """Chooses the accelerator at the first start; `chosen` is None until then."""

    def __init__(self, settings: Settings, cache: Path) -> None:
        self.chosen: Accelerator | None = None
        self._settings = settings
        self._cache = cache
        self._probes: dict[str, asyncio.Task[Accelerator]] = {}

    async def choose(self, kernel: Kernel) -> Accelerator:
        """The accelerator for `kernel`; starts that come at once wait for the same trial."""
        raise NotImplementedError
