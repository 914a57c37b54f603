"""The initramfs of a VM: a newc cpio archive holding the agent and the modules it loads, and nothing else.

    /init            the agent
    /dev/console     what the kernel gives PID 1 as its standard files
    /modules/*.ko    uncompressed, for finit_module(2)
    /modules/order   their names, one a line, a module after what it depends on
    /modules/on-demand    the same of those that are not loaded at boot
    /dev /proc /sys /run /tmp    empty

It is not compressed: under emulation the guest would pay for that at each boot. The format is described in the
kernel's Documentation/driver-api/early-userspace/buffer-format.rst. The same input gives the same bytes.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO

_DIRECTORIES = ("dev", "proc", "sys", "run", "tmp", "modules")
_CONSOLE = (5, 1)
_TRAILER = "TRAILER!!!"
_ALIGNMENT = 4


@dataclass(frozen=True)
class Entry:
    """One member of an archive; `mode` with its type bits, `device` (major, minor) of a device node."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class LoadedModule:
    """A module as the agent loads it, at boot or `on_demand`: file name (`virtio_pci.ko`) and uncompressed bytes."""

    file_name: str
    data: bytes
    on_demand: bool = False


def write_initramfs(stream: BinaryIO, agent: bytes, modules: Iterable[LoadedModule]) -> None:
    """Write the archive to `stream`; `modules` in the order in which the agent shall load them."""
    modules = tuple(modules)
    order, on_demand = (
        "".join(f"{module.file_name}\n" for module in modules if module.on_demand == later) for later in (False, True)
    )
    entries = [
        *(Entry(name, stat.S_IFDIR | 0o755) for name in _DIRECTORIES),
        Entry("dev/console", stat.S_IFCHR | 0o600, device=_CONSOLE),
        Entry("init", stat.S_IFREG | 0o755, agent),
        *(Entry(f"modules/{module.file_name}", stat.S_IFREG | 0o644, module.data) for module in modules),
        Entry("modules/order", stat.S_IFREG | 0o644, order.encode()),
        Entry("modules/on-demand", stat.S_IFREG | 0o644, on_demand.encode()),
    ]
    write_archive(stream, entries)


def write_archive(stream: BinaryIO, entries: Iterable[Entry]) -> None:
    """Write `entries` as a newc archive with its trailer; a directory must come before what is in it."""
    inode = 0
    for inode, entry in enumerate(entries, start=1):
        _write_entry(stream, entry, inode)
    _write_entry(stream, Entry(_TRAILER, 0), inode + 1)


def _write_entry(stream: BinaryIO, entry: Entry, inode: int) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, major and minor of the file system, of the node, name's size, checksum
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    stream.write(head + _padding(len(head)))
    stream.write(entry.data)
    stream.write(_padding(len(entry.data)))


def _padding(length: int) -> bytes:
    return bytes(-length % _ALIGNMENT)
