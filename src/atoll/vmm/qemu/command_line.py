"""QEMU's command line for a machine, with the reason beside each flag that is not plain.

Figures: docs/adr/0003-device-set.md. "Saves" is time to the agent's first message of a cold boot under emulation.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from atoll.vmm import slots
from atoll.vmm.monitor import AcceleratorName, DiskSource, MachineSpec

Node = dict[str, str | int | bool]
"""A block node as `blockdev-add` takes it."""

AGENT_PORT, SHARE_PORT = "org.atoll.agent", "org.atoll.share"
FIRST_FREE_SET = 10
"""Descriptor sets below are the disks' own; the parts of a disk that is composed have numbers from here on."""
GROWTH = "growth"
"""The device that memory is added by."""
GROWTH_MIB = 64 << 10
"""Room for memory added while the machine runs; address space, not memory."""
VHOST_NET = Path("/dev/vhost-net")
_MOST_CPUS = 32
PLACEHOLDER_BYTES = 1 << 44
"""Size of a disk without content: larger than any that takes its place, for a bound driver keeps the size it read."""


@dataclass(frozen=True)
class DiskDevice:
    """A disk that every machine has: the name of the node behind it, its place, the set of its own file."""

    name: str
    slot: str
    fdset: int
    is_read_only: bool = False

    @property
    def first_node(self) -> str:
        """The node of the file that a machine is created with behind the disk."""
        return f"{self.name}-file"

    @property
    def options(self) -> dict[str, str | bool]:
        """Options of the node between device and file."""
        return {"read-only": True} if self.is_read_only else {"discard": "unmap"}


DISKS = (
    DiskDevice("image", slots.IMAGE, 1, is_read_only=True),
    DiskDevice("writable", slots.WRITABLE, 2),
    DiskDevice("volumes", slots.VOLUMES, 3),
)
Sources = tuple[DiskSource | None, ...]
"""What is behind each of `DISKS`."""


@dataclass(frozen=True)
class Sockets:
    """The monitor's ends of the connections between host and machine, by descriptor; without taps `network`."""

    control: int
    agent: int
    console: int
    share: int
    network: int | None = None


@dataclass(frozen=True)
class OpenFiles:
    """What a machine reads and writes, by descriptor; `sets` are the disks' files, by descriptor set.

    `vhosts`, if there are any, are one for each tap.
    """

    kernel: int
    initramfs: int
    sets: dict[int, int]
    memory: int | None = None
    taps: tuple[int, ...] = ()
    vhosts: tuple[int, ...] = ()


def command_line(spec: MachineSpec, sockets: Sockets, files: OpenFiles) -> list[str]:
    """The arguments after the program's name."""
    return [
        *_host(spec),
        *_board(spec),
        *_memory(spec, files),
        *_boot(spec, files),
        *_control(sockets),
        *_ports(sockets),
        *_disks(spec, files),
        *_networks(sockets, files),
        *_other_devices(),
    ]


def _host(spec: MachineSpec) -> list[str]:
    denied = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    return [
        *("-name", f"guest={spec.name}"),
        "-nodefaults",
        "-no-user-config",
        *("-display", "none"),
        *("-sandbox", f"on,{denied}"),
        # Devices are set up before the guest sees them; a saved machine runs when it is loaded.
        *(["-S"] if spec.saved is None else []),
        "-no-reboot",  # a guest that reboots or panics has ended
    ]


def _board(spec: MachineSpec) -> list[str]:
    most_cpus = max(spec.cpus, min(os.cpu_count() or 1, _MOST_CPUS))
    return [
        # q35: PCI with memory-mapped configuration; pc took 0.7 s longer. Off is what no container uses: less to probe,
        # less to attack. hpet: saves 20 ms; i8042: panic=-1 resets through ACPI.
        *("-machine", "q35,usb=off,sata=off,smbus=off,vmport=off,i8042=off,hpet=off,memory-backend=ram"),
        *_accelerator(spec.accelerator),
        # Room for CPUs that are plugged in later; costs nothing measurable.
        *("-smp", f"{spec.cpus},maxcpus={most_cpus}"),
        # Saves 100 ms over SeaBIOS: it does no more than a kernel given with -kernel needs.
        *("-bios", "qboot.rom"),
    ]


def _memory(spec: MachineSpec, files: OpenFiles) -> list[str]:
    size = f"id=ram,size={spec.memory_mib}M"
    if files.memory is None:
        ram = f"memory-backend-ram,{size}"
    else:
        # share=off: a page that the guest writes is this machine's own copy, the file stays as it is.
        shared = "off" if spec.saved is not None else "on"
        ram = f"memory-backend-file,{size},mem-path=/proc/self/fd/{files.memory},share={shared}"
    return [
        *("-m", f"size={spec.memory_mib}M,maxmem={spec.memory_mib + GROWTH_MIB}M"),
        *("-object", ram),
        *(["-incoming", "defer"] if spec.saved is not None else []),
    ]


def _accelerator(name: AcceleratorName) -> list[str]:
    if name == "kvm":
        return ["-accel", "kvm", "-cpu", "host"]
    return [
        # The translation cache's bound is memory per VM on the host; the default is up to 1 GiB. A shell, perl, dpkg,
        # find and gzip, run in turn, fill 129 MiB: 128 costs them nothing that could be told from noise, 64 a tenth to
        # a fifth of their time (docs/performance.md).
        *("-accel", "tcg,tb-size=128"),
        # max: images built for x86-64-v3 run, and KVM inside the guest does (svm). Without what only costs time when
        # emulated: erms and fsrm (the guest copies byte by byte: 100 ms), la57 (page tables of five levels: 50 ms).
        *("-cpu", "max,-erms,-fsrm,-la57"),
    ]


def _boot(spec: MachineSpec, files: OpenFiles) -> list[str]:
    return [
        # Not an fdset: QEMU opens these two with fopen(3), and an inherited descriptor's link under /proc is a path.
        *("-kernel", f"/proc/self/fd/{files.kernel}"),
        *("-initrd", f"/proc/self/fd/{files.initramfs}"),
        *("-append", " ".join((*kernel_parameters(spec.accelerator), *spec.kernel_parameters))),
    ]


def kernel_parameters(accelerator: AcceleratorName) -> tuple[str, ...]:
    """The kernel's command line; see docs/adr/0003-device-set.md for those that were tried and are not here."""
    return (
        *("console=ttyS0", "quiet", "loglevel=3"),
        "panic=-1",  # reboot at once, which -no-reboot makes QEMU's end
        "cryptomgr.notests",  # saves 270 ms of ciphers testing themselves
        # Memory that is added comes online by itself, three quarters of it so that it can be taken away again.
        *("memhp_default_state=online", "memory_hotplug.online_policy=auto-movable"),
        "swiotlb=noforce",  # room above 4 GiB would cost each guest a 64 MiB bounce buffer and 300 ms to clear it
        # The emulated counter is the host's, so it needs no check against other CPUs (140 ms a CPU), nor a watchdog
        # that distrusts it when the host is busy. Under KVM the guest has kvm-clock.
        *(("tsc=reliable",) if accelerator == "tcg" else ()),
    )


def _control(sockets: Sockets) -> list[str]:
    return [
        *("-chardev", f"socket,id=control,fd={sockets.control}"),
        *("-mon", "chardev=control,mode=control"),
        *("-chardev", f"socket,id=console,fd={sockets.console}"),
        *("-serial", "chardev:console"),
    ]


def _ports(sockets: Sockets) -> list[str]:
    return [
        *("-chardev", f"socket,id=agent,fd={sockets.agent}"),
        *("-chardev", f"socket,id=share,fd={sockets.share}"),
        *_device("virtio-serial-pci", slots.AGENT, "id=serial", "max_ports=3"),
        *("-device", f"virtserialport,bus=serial.0,nr=1,chardev=agent,name={AGENT_PORT}"),
        *("-device", f"virtserialport,bus=serial.0,nr=2,chardev=share,name={SHARE_PORT}"),
    ]


def _disks(spec: MachineSpec, files: OpenFiles) -> list[str]:
    sets = (word for number, fd in files.sets.items() for word in ("-add-fd", f"fd={fd},set={number}"))
    return [
        *sets,
        *(
            word
            for disk, source in zip(DISKS, sources(spec.image, spec.writable, spec.volumes), strict=True)
            for node in disk_nodes(disk, source, disk.first_node, disk.fdset)
            for word in _blockdev(node)
        ),
        *(word for disk in DISKS for word in _disk(disk)),
    ]


def sources(image: DiskSource | None, writable: Path | None, volumes: DiskSource | None) -> Sources:
    """What is behind each of `DISKS`, in order."""
    return image, None if writable is None else DiskSource(writable), volumes


def _disk(disk: DiskDevice) -> list[str]:
    return [
        # The node between device and file is what a running machine can be given another file by (blockdev-reopen).
        *_blockdev({"driver": "raw", "node-name": disk.name, "file": disk.first_node, **disk.options}),
        # One queue, whatever the number of CPUs: they are few, and mostly idle. werror: the guest is told when the host
        # has no space left; QEMU would stop the machine, and nobody would hear why.
        *_device("virtio-blk-pci", disk.slot, f"drive={disk.name}", "num-queues=1", "werror=report"),
    ]


def disk_nodes(disk: DiskDevice, source: DiskSource | None, node: str, fdset: int) -> list[Node]:
    """What the node `node` of a disk stands on, bottom first, itself last; `fdset` has the source's own file."""
    options = disk.options
    if source is None:
        read_only: Node = {"read-only": True} if disk.is_read_only else {}
        return [{"driver": "null-co", "size": PLACEHOLDER_BYTES, "read-zeroes": True, "node-name": node, **read_only}]
    file: Node = {"driver": "file", "filename": f"/dev/fdset/{fdset}", **options}
    if source.format == "raw":
        return [file | {"node-name": node}]
    descriptor = f"{node}-descriptor"
    return [file | {"node-name": descriptor}, {"driver": "vmdk", "node-name": node, "file": descriptor, **options}]


def _blockdev(node: Node) -> list[str]:
    parts = (f"{key}={('on' if value else 'off') if isinstance(value, bool) else value}" for key, value in node.items())
    return ["-blockdev", ",".join(parts)]


def uses_vhost(spec: MachineSpec) -> bool:
    """Whether the host's kernel moves the frames: it can where it runs the guest's code, too."""
    return spec.accelerator == "kvm" and bool(spec.taps) and os.access(VHOST_NET, os.R_OK | os.W_OK)


def _networks(sockets: Sockets, files: OpenFiles) -> list[str]:
    if sockets.network is not None:
        return [
            # A socket whose other end we hold and nobody reads: the guest reaches nothing. `none` would be a warning.
            *("-netdev", f"dgram,id=network0,local.type=fd,local.str={sockets.network}"),
            *_device("virtio-net-pci", slots.NETWORKS[0], "netdev=network0", "romfile="),
        ]
    vhosts = [f"vhost=on,vhostfd={fd}" for fd in files.vhosts] or ["vhost=off"] * len(files.taps)
    return [
        word
        for number, (slot, tap, vhost) in enumerate(zip(slots.NETWORKS, files.taps, vhosts, strict=True))
        for word in (
            *("-netdev", f"tap,id=network{number},fd={tap},{vhost}"),
            # No announcement: a clone is another guest than its template, and what it is called it is told.
            *_device("virtio-net-pci", slot, f"netdev=network{number}", "romfile=", "guest_announce=off"),
        )
    ]


def _other_devices() -> list[str]:
    return [
        *("-object", "rng-builtin,id=entropy"),
        *_device("virtio-rng-pci", slots.ENTROPY, "rng=entropy"),
        *_device("virtio-balloon-pci", slots.BALLOON, "free-page-reporting=on"),
        # Address space only: without the reservation a host that does not overcommit would refuse it.
        *("-object", f"memory-backend-ram,id=growth,size={GROWTH_MIB}M,reserve=off"),
        *_device("virtio-mem-pci", slots.GROWTH, f"id={GROWTH}", "memdev=growth", "requested-size=0"),
    ]


def _device(kind: str, slot: str, *options: str) -> list[str]:
    # Without the interface of virtio before 1.0: I/O ports, and the code of another age in QEMU.
    return ["-device", ",".join((kind, f"addr={slots.device_number(slot):#x}", "disable-legacy=on", *options))]


def machine_digest(spec: MachineSpec) -> str:
    """What a machine is, apart from its files. Of two that differ in their files alone one can go on as the other."""
    taps = (0,) * len(spec.taps)
    sockets = Sockets(control=0, agent=0, console=0, share=0, network=None if taps else 0)
    files = OpenFiles(0, 0, {}, 0, taps, taps if uses_vhost(spec) else ())
    return hashlib.sha256(repr(command_line(spec, sockets, files)).encode()).hexdigest()
