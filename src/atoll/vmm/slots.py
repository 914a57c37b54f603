"""Where each device of a VM sits on its PCI bus: the agent is told an address, and binds the driver of what is there.

Every device is there in every VM, so that a saved template fits all of them (docs/adr/0003-device-set.md).
"""

AGENT = "0000:00:02.0"
"""virtio-serial, with the ports `org.atoll.agent` and `org.atoll.share`."""
ENTROPY = "0000:00:03.0"
BALLOON = "0000:00:04.0"
IMAGE = "0000:00:05.0"
"""virtio-blk, read-only: the image's layers."""
WRITABLE = "0000:00:06.0"
"""virtio-blk: the container's own layer."""
NETWORKS = ("0000:00:07.0", "0000:00:0b.0", "0000:00:0c.0", "0000:00:0d.0")
"""virtio-net: one for each network that a container can be on."""
GROWTH = "0000:00:09.0"
"""virtio-mem: memory added while the VM runs."""
VOLUMES = "0000:00:0a.0"
"""virtio-blk: the volumes that the container may write, one after the other."""


def device_number(slot: str) -> int:
    """The device number in a slot's address, as QEMU's `addr=` wants it."""
    return int(slot[8:10], 16)
