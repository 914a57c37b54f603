"""Virtual machines: what one is made of, who makes it, and how its guest's code runs."""

from atoll.vmm import slots
from atoll.vmm.accelerator import Accelerator, probe
from atoll.vmm.monitor import AcceleratorName, DiskSource, Machine, MachineSpec, Monitor, SavedMachine
from atoll.vmm.qemu import QemuMonitor

__all__ = [
    "Accelerator",
    "AcceleratorName",
    "DiskSource",
    "Machine",
    "MachineSpec",
    "Monitor",
    "QemuMonitor",
    "SavedMachine",
    "probe",
    "slots",
]
