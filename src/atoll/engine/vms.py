"""What a VM of a given size is made of now: kernel, accelerator, QEMU."""

import os
import shutil
from collections.abc import Awaitable, Callable

from atoll.engine.accelerators import AcceleratorChoice
from atoll.engine.sizing import VmSize
from atoll.errors import Unavailable
from atoll.kernel import Kernel, KernelStore
from atoll.model.container import VmSpec
from atoll.paths import Paths
from atoll.settings import Settings

_TEMPLATE_UID = 1 << 21
"""Above the users of containers and of spares: none of those reaches a template in the making."""


class VmMaker:
    """Describes VMs; what it describes changes with the kernel in use and the program that is QEMU."""

    def __init__(
        self,
        paths: Paths,
        settings: Settings,
        kernels: KernelStore,
        accelerators: AcceleratorChoice,
        keeper: Callable[[], Awaitable[str]],
    ) -> None:
        """`keeper` says where VMs find the keeper of networks, "" for nowhere."""
        self._paths = paths
        self._settings = settings
        self._kernels = kernels
        self._accelerators = accelerators
        self._keeper = keeper

    async def make(self, size: VmSize) -> tuple[Kernel, VmSpec]:
        """The kernel, and a VM that is nobody's yet; raises `Unavailable` without QEMU or a kernel."""
        qemu = self.qemu()
        kernel = await self._kernels.current()
        accelerator = await self._accelerators.choose(kernel)
        return kernel, VmSpec(
            kernel=str(kernel.image),
            initramfs=str(kernel.initramfs),
            accelerator=accelerator.name,
            qemu=qemu,
            cpus=size.cpus,
            memory_mib=size.memory_mib,
            boot_timeout_s=self._settings.boot_timeout_s,
            # Nobody's: that of a container or a spare takes its place. A template is built under it.
            vm_uid=self._settings.vm_uid_first + _TEMPLATE_UID if os.geteuid() == 0 else None,
            run_dir="",
            keeper=await self._keeper(),
        )

    def qemu(self) -> str:
        """The path of QEMU; raises `Unavailable`."""
        found = shutil.which(self._settings.qemu)
        if found is None:
            raise Unavailable(
                f"QEMU is missing: {self._settings.qemu} is not on PATH, install qemu-system-x86 or name it in "
                f"{self._paths.settings_file}"
            )
        return found
