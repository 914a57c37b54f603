"""A plain Linux guest under plain QEMU: no agent, no engine, no template; a shell on its serial line.

It has the kernel, the processor, the memory and the board that the engine gives a container's VM, and disks as a user
would attach them by hand (`-drive if=none` and `virtio-blk-pci`, nothing that matters set): `/dev/plain0` and on.
"""

import select
import socket
import stat
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.checkout import program
from harness.kernel import UnpackedKernel

from atoll.kernel.initramfs import Entry, write_archive
from atoll.kernel.modules import REQUIRED, ModuleTree
from atoll.vmm import MachineSpec
from atoll.vmm.qemu.command_line import command_line
from atoll.vmm.qemu.handover import open_handover

ANSWER_S = 300.0
_MARK = b"@@@"
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
stty -F /dev/console raw -echo
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
for disk in /sys/block/vd*; do ln -s /dev/${disk##*/} /dev/$(cat $disk/serial); done
echo "ready @@@0"
while read -r line; do
    eval "$line" 2>&1
    echo "@@@$?"
done
"""


class GuestFailed(Exception):
    """The guest did not do what it was asked for; the message holds what it said."""


@dataclass(frozen=True)
class Disk:
    """A file as a raw disk."""

    path: Path
    is_read_only: bool = True


@dataclass(frozen=True)
class Guest:
    """A guest whose shell waits for a line."""

    console: socket.socket

    def run(self, line: str) -> str:
        """Carry out a line of shell; what it printed. Raises `GuestFailed` unless it ends with 0."""
        self.console.sendall(line.encode() + b"\n")
        return self.answer()

    def answer(self) -> str:
        """What is printed up to the next mark."""
        said = b""
        deadline = time.monotonic() + ANSWER_S
        while not (said.endswith(b"\n") and _MARK in said):
            readable, _, _ = select.select([self.console], [], [], max(0.0, deadline - time.monotonic()))
            piece = self.console.recv(65536) if readable else b""
            if not piece:
                raise GuestFailed(
                    f"the guest ended, or takes too long; it said: {said[-2000:].decode(errors='replace')}"
                )
            said += piece
        text, _, code = said.decode(errors="replace").rpartition(_MARK.decode())
        if code.strip() != "0":
            raise GuestFailed(f"exit code {code.strip()}: {text[-2000:]}")
        return text


@contextmanager
def guest(
    kernel: UnpackedKernel,
    machine: MachineSpec,
    scratch: Path,
    disks: Sequence[Disk] = (),
    modules: Sequence[str] = (),
    *,
    programs: Sequence[Path] = (),
    devices: Sequence[str] = (),
    within: Sequence[str] = (),
) -> Iterator[Guest]:
    """A guest with `disks` that knows `modules` besides the product's; it is killed when the context ends.

    `programs` are in its /bin, `devices` are more words for QEMU, whose command line begins with `within`.
    """
    initramfs = scratch / "guest-initramfs"
    write_initramfs(initramfs, kernel, modules, programs)
    spec = replace(machine, initramfs=initramfs, name="atoll-plain")
    with ExitStack() as ours, ExitStack() as theirs:
        ends, handover = open_handover(spec, ours, theirs)
        # -S would have it wait for us.
        arguments = [argument for argument in command_line(spec, handover.sockets, handover.files) if argument != "-S"]
        for number, disk in enumerate(disks):
            readonly = "on" if disk.is_read_only else "off"
            arguments += ["-drive", f"if=none,id=plain{number},format=raw,readonly={readonly},file={disk.path}"]
            arguments += ["-device", f"virtio-blk-pci,drive=plain{number},serial=plain{number}"]
        with subprocess.Popen([*within, spec.qemu, *arguments, *devices], pass_fds=handover.descriptors) as qemu:
            theirs.close()
            try:
                ends.console.setblocking(True)
                started = Guest(ends.console)
                started.answer()
                yield started
            finally:
                qemu.kill()


def write_initramfs(file: Path, kernel: UnpackedKernel, modules: Sequence[str], programs: Sequence[Path] = ()) -> None:
    """An initramfs of busybox, the kernel's modules, and a shell for its init."""
    loaded = ModuleTree.read(kernel.modules).load((*REQUIRED, *modules))
    directory, plain = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    with file.open("wb") as stream:
        write_archive(
            stream,
            [
                *(Entry(name, directory) for name in ("bin", "dev", "proc", "sys", "mnt", "modules")),
                Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
                Entry("init", plain, _INIT.encode()),
                Entry("bin/busybox", plain, program("busybox").read_bytes()),
                *(Entry(f"bin/{file.name}", plain, file.read_bytes()) for file in programs),
                *(Entry(f"modules/{module.file_name}", plain, module.data) for module in loaded),
                Entry("modules/order", plain, "".join(f"{module.file_name}\n" for module in loaded).encode()),
            ],
        )
