"""What is handed to QEMU open: the files and sockets of a machine, so that its own user needs no right to any path."""

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from atoll.errors import InvalidRequest, NotFound, VmFailed
from atoll.vmm.monitor import MachineSpec
from atoll.vmm.qemu.command_line import DISKS, FIRST_FREE_SET, VHOST_NET, OpenFiles, Sockets, sources, uses_vhost


@dataclass(frozen=True)
class HostEnds:
    """Our ends of a machine's connections."""

    control: socket.socket
    agent: socket.socket
    console: socket.socket
    share: socket.socket
    network: socket.socket | None = None


@dataclass(frozen=True)
class Handover:
    """All descriptors that QEMU inherits."""

    sockets: Sockets
    files: OpenFiles
    state: int | None = None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """The descriptors to keep open across the start of QEMU."""
        sockets, files = self.sockets, self.files
        ends = (sockets.control, sockets.agent, sockets.console, sockets.share)
        others = (number for number in (sockets.network, files.memory, self.state) if number is not None)
        disks = files.sets.values()
        return (*ends, files.kernel, files.initramfs, *others, *disks, *files.taps, *files.vhosts)


def open_handover(spec: MachineSpec, ours: ExitStack, theirs: ExitStack) -> tuple[HostEnds, Handover]:
    """Open everything: what is `theirs` is to be closed once QEMU runs, what is `ours` when the machine is gone.

    Raises `NotFound` or `VmFailed` naming the file that cannot be opened.
    """

    def pair(kind: socket.SocketKind) -> tuple[socket.socket, int]:
        host, machine = socket.socketpair(socket.AF_UNIX, kind)
        ours.callback(host.close)
        theirs.callback(machine.close)
        host.setblocking(False)
        return host, machine.fileno()

    def opened(path: Path, flags: int = os.O_RDONLY) -> int:
        return open_file(path, theirs, flags)

    pairs = {name: pair(socket.SOCK_STREAM) for name in ("control", "agent", "console", "share")}
    if not spec.taps:
        pairs["network"] = pair(socket.SOCK_DGRAM)
    saved = spec.saved or spec.save_to
    sets: dict[int, int] = {}
    for disk, source in zip(DISKS, sources(spec.image, spec.writable, spec.volumes), strict=True):
        if source is None:
            continue
        flags = os.O_RDONLY if disk.is_read_only else os.O_RDWR
        sets[disk.fdset] = opened(source.path, flags)
        for number, path in source.files.items():
            if number < FIRST_FREE_SET or number in sets:
                raise InvalidRequest(f"descriptor set {number} of disk {source.path} is taken: use {FIRST_FREE_SET}+")
            sets[number] = opened(path, flags)
    files = OpenFiles(
        kernel=opened(spec.kernel),
        initramfs=opened(spec.initramfs),
        sets=sets,
        memory=None if saved is None else saved.memory,
        taps=spec.taps,
        vhosts=tuple(opened(VHOST_NET, os.O_RDWR) for _ in spec.taps) if uses_vhost(spec) else (),
    )
    # Opened again: every reader needs a position of its own.
    state = None if spec.saved is None else opened(Path(f"/proc/self/fd/{spec.saved.state}"))
    host_ends = HostEnds(**{name: ends[0] for name, ends in pairs.items()})
    sockets = Sockets(**{name: ends[1] for name, ends in pairs.items()})
    return host_ends, Handover(sockets=sockets, files=files, state=state)


def open_file(path: Path, stack: ExitStack, flags: int = os.O_RDONLY) -> int:
    """A descriptor of `path`, closed with `stack`; raises `NotFound` or `VmFailed`."""
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{path}, which the virtual machine needs, is not there") from error
    except OSError as error:
        raise VmFailed(f"{path}, which the virtual machine needs, cannot be opened: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    return descriptor
