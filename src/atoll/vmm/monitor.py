"""What a virtual machine monitor is to the rest of Atoll: something that creates machines.

`QemuMonitor` is the one there is; another (cloud-hypervisor, Apple's Virtualization framework) fits behind the same
two protocols.
"""

import socket
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

AcceleratorName = Literal["kvm", "tcg"]


@dataclass(frozen=True)
class DiskSource:
    """What is behind a disk: a raw file, or a VMDK descriptor whose extents are called `/dev/fdset/<number>`.

    `files` says which file each of those numbers is.
    """

    path: Path
    format: Literal["raw", "vmdk"] = "raw"
    files: Mapping[int, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedMachine:
    """A machine that was saved while it ran: descriptors, open in this process, of what it is made again from.

    `memory` is a memfd of the machine's RAM, sealed against writing; `state` a file of its devices' state.
    """

    memory: int
    state: int


@dataclass(frozen=True, kw_only=True)
class MachineSpec:
    """A machine to create. Paths are opened by us, with our rights, and handed over open.

    `image` is read-only, `writable` and `volumes` are not. `uid` is the unprivileged user that the monitor runs as
    (None: our own), `kernel_parameters` are added to those that the monitor chooses, `name` shows in the host's list of
    processes. With `saved` the machine goes on where that one was saved, on a private copy of its memory: everything
    else must be as it was there, but for the disks. `save_to` are files for a machine that is to be saved: the first
    holds its RAM from the beginning (and is not sealed yet). `taps` are what is behind the network devices: as many
    descriptors of taps (with a header for virtio) as there are places for them, or none: then the machine has one
    device, and nothing behind it.
    """

    kernel: Path
    initramfs: Path
    cpus: int
    memory_mib: int
    accelerator: AcceleratorName
    image: DiskSource | None = None
    writable: Path | None = None
    volumes: DiskSource | None = None
    saved: SavedMachine | None = None
    save_to: SavedMachine | None = None
    taps: tuple[int, ...] = ()
    uid: int | None = None
    kernel_parameters: tuple[str, ...] = ()
    qemu: str = "qemu-system-x86_64"
    name: str = "atoll"


class Machine(Protocol):
    """A virtual machine that exists; made paused, gone when the context that made it ends."""

    @property
    def pid(self) -> int:
        """The monitor's process on the host."""
        ...

    @property
    def agent(self) -> socket.socket:
        """The host's end of the agent's port: non-blocking, connected from the start; closed with the machine."""
        ...

    @property
    def console(self) -> socket.socket:
        """The host's end of the serial console: non-blocking, must be read; closed with the machine."""
        ...

    @property
    def share(self) -> socket.socket:
        """The host's end of the port for file systems (FUSE): non-blocking; closed with the machine, if not before.

        The guest sees the end of the port when nobody has this end open any more.
        """
        ...

    async def start(self) -> None:
        """Let the guest run, from its first instruction or from where it was saved; raises `VmFailed`."""
        ...

    async def grow(self, added_mib: int) -> None:
        """Offer the guest `added_mib` (in all) beyond the memory it was created with; raises `VmFailed`."""
        ...

    async def change_disks(
        self, image: DiskSource | None, writable: Path | None, volumes: DiskSource | None = None
    ) -> None:
        """Put other files behind the disks while the guest runs and uses none; raises `VmFailed`, `NotFound`.

        None is a disk without content. A driver that is bound goes on with the size that it has read.
        """
        ...

    def set_priority(self, *, low: bool) -> None:
        """Give the monitor less of a busy host's processors, or its full share again, as far as we may."""
        ...

    async def save(self) -> None:
        """Stop a guest that was created with `save_to` for good, and write its devices' state; raises `VmFailed`."""
        ...

    async def pause(self) -> None:
        """Stop all virtual CPUs; raises `VmFailed`."""
        ...

    async def resume(self) -> None:
        """Let the virtual CPUs run again; raises `VmFailed`."""
        ...

    async def quit(self, deadline_s: float = 5.0) -> None:
        """End the monitor, by force when it has not ended after `deadline_s` seconds; never fails."""
        ...

    async def wait(self) -> int:
        """Wait for the monitor's end: its exit status, or the negated signal that ended it."""
        ...

    @property
    def complaints(self) -> str:
        """The last lines that the monitor itself has written to its standard error; empty when none."""
        ...


class Monitor(Protocol):
    """Creates machines."""

    def create(self, spec: MachineSpec) -> AbstractAsyncContextManager[Machine]:
        """A paused machine for `spec`; leaving the context ends it and frees all that it had.

        Raises `Unavailable` when the monitor is missing on this host, `VmFailed` when it refuses the machine.
        """
        ...
