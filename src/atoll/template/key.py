"""What makes one template differ from another: everything that the guest and its machine were made of."""

import hashlib
from pathlib import Path

import atoll
from atoll.template.template import TemplateKey
from atoll.vmm import MachineSpec
from atoll.vmm.qemu import machine_digest

_PROCESSOR = ("vendor_id", "cpu family", "model", "stepping", "flags", "microcode")


def template_key(spec: MachineSpec, *, kernel_digest: str, kernel_version: str) -> TemplateKey:
    """The key of a template that is made with the machine `spec`; raises `OSError` when a file is missing."""
    return TemplateKey(
        kernel=kernel_digest,
        kernel_version=kernel_version,
        # Named after the agent's digest, and made of it and of the kernel's modules.
        initramfs=f"{spec.initramfs.name} {spec.initramfs.stat().st_size}",
        atoll_version=atoll.__version__,
        qemu=qemu_identity(spec.qemu),
        machine=machine_digest(spec),
        accelerator=spec.accelerator,
        host=_processor() if spec.accelerator == "kvm" else "",
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
    )


def qemu_identity(program: str) -> str:
    """What tells one build of QEMU from another; raises `OSError` when there is none."""
    status = Path(program).stat()
    return f"{program} {status.st_size} {status.st_mtime_ns}"


def _processor() -> str:
    first, _, _ = Path("/proc/cpuinfo").read_text().partition("\n\n")
    lines = [line for line in first.splitlines() if line.partition("\t")[0] in _PROCESSOR]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
