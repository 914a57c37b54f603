"""QEMU as a virtual machine monitor."""

from atoll.vmm.qemu.command_line import machine_digest
from atoll.vmm.qemu.machine import QemuMonitor

__all__ = ["QemuMonitor", "machine_digest"]
