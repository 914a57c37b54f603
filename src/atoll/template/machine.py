"""The machine that a VM is, cold or a clone."""

from pathlib import Path

from atoll.model.container import VmSpec
from atoll.template.template import MEMORY_MIB
from atoll.vmm import MachineSpec, SavedMachine, slots

_NOT_YET = -1


def machine_spec(
    vm: VmSpec, name: str, template: SavedMachine | None = None, taps: tuple[int, ...] = ()
) -> MachineSpec:
    """The machine of a VM that boots cold, with all of its memory, or goes on from a template; without disks."""
    memory_mib = vm.memory_mib if template is None else template_memory_mib(vm)
    return _machine(vm, name, memory_mib, template, taps)


def template_spec(vm: VmSpec) -> MachineSpec:
    """The machine that the template of a VM is made with; who makes it has yet to take its taps."""
    taps = (_NOT_YET,) * len(slots.NETWORKS) if vm.keeper else ()
    return _machine(vm, "atoll-template", template_memory_mib(vm), None, taps)


def template_memory_mib(vm: VmSpec) -> int:
    """RAM of the template of a VM."""
    return min(vm.memory_mib, MEMORY_MIB)


def _machine(vm: VmSpec, name: str, memory_mib: int, saved: SavedMachine | None, taps: tuple[int, ...]) -> MachineSpec:
    return MachineSpec(
        kernel=Path(vm.kernel),
        initramfs=Path(vm.initramfs),
        cpus=vm.cpus,
        memory_mib=memory_mib,
        accelerator=vm.accelerator,
        saved=saved,
        uid=vm.vm_uid,
        qemu=vm.qemu,
        name=name,
        taps=taps,
    )
