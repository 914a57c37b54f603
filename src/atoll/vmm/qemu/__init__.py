"""QEMU as a virtual machine monitor."""

from atoll.vmm.qemu.machine import QemuMonitor

__all__ = ["QemuMonitor"]
