"""The guest kernel of the tests: Debian's cloud kernel, downloaded and unpacked once a checkout, never installed."""

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.checkout import BUILD, script

PACKAGE = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class UnpackedKernel:
    """A kernel's image and the directory of its modules (the one that holds modules.dep)."""

    image: Path
    modules: Path

    @property
    def version(self) -> str:
        """The release, as `uname -r` prints it."""
        return self.modules.name


def unpacked_kernel() -> UnpackedKernel:
    """The unpacked kernel from `build/kernel-cache`, fetched when it is not there yet."""
    cache = Path(os.environ.get("ATOLL_TEST_KERNEL", BUILD / "kernel-cache"))
    if not cache.exists():
        subprocess.run([script("unpack-kernel"), PACKAGE, cache], check=True)
    (image,) = cache.glob("boot/vmlinuz-*")
    (modules,) = cache.glob("lib/modules/*")
    return UnpackedKernel(image=image, modules=modules)
