"""Other files behind the disks of a running machine.

Between each disk's device and its file stands a `raw` node; that node is given another file to stand on.
"""

import asyncio
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from atoll.vmm.monitor import DiskSource, MachineSpec
from atoll.vmm.qemu.command_line import DISKS, DiskDevice, Node, Sources, disk_nodes, sources
from atoll.vmm.qemu.control import Control
from atoll.vmm.qemu.handover import open_file

# Descriptor sets of files that come later: above those of the command line and a composed disk's own.
_FIRST_SET = 10_000


@dataclass(frozen=True)
class _Behind:
    """What is behind a disk now: nodes, the top one last, and the descriptor sets that they use."""

    source: DiskSource | None
    nodes: tuple[str, ...]
    sets: tuple[int, ...]


class Disks:
    """The disks of one machine; `spec` says what it was created with."""

    def __init__(self, control: Control, spec: MachineSpec) -> None:
        self._control = control
        self._changes = 0
        created_with = sources(spec.image, spec.writable, spec.volumes)
        self._behind = {
            disk.name: _behind(source, disk_nodes(disk, source, disk.first_node, 0), source.files if source else ())
            for disk, source in zip(DISKS, created_with, strict=True)
        }

    async def change(self, wanted: Sources) -> None:
        """See `Machine.change_disks`."""
        self._changes += 1
        commands: list[tuple[str, Mapping[str, object]]] = []
        files: dict[int, int] = {}
        with ExitStack() as opened:
            for number, (disk, source) in enumerate(zip(DISKS, wanted, strict=True)):
                if source is None and self._behind[disk.name].source is None:
                    continue
                fdset = _FIRST_SET + len(DISKS) * self._changes + number
                files |= _open(disk, source, fdset, opened)
                commands += self._put(disk, source, fdset)
            for number, descriptor in files.items():
                await self._control.add_to_set(descriptor, number)
        # QEMU carries them out in the order of their sending; to wait for each would take twice as long.
        answers = await asyncio.gather(
            *(self._control.execute(*command) for command in commands), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    def _put(
        self, disk: DiskDevice, source: DiskSource | None, fdset: int
    ) -> Iterator[tuple[str, Mapping[str, object]]]:
        """The commands that put `source` behind a disk, and take away what was there."""
        nodes = disk_nodes(disk, source, f"{disk.name}-file-{self._changes}", fdset)
        old, new = self._behind[disk.name], _behind(source, nodes, (fdset, *source.files) if source else ())
        self._behind[disk.name] = new
        yield from (("blockdev-add", node) for node in nodes)
        top = {"driver": "raw", "node-name": disk.name, "file": new.nodes[-1], **disk.options}
        yield "blockdev-reopen", {"options": [top]}
        yield from (("blockdev-del", {"node-name": name}) for name in reversed(old.nodes))
        yield from (("remove-fd", {"fdset-id": number}) for number in old.sets)


def _open(disk: DiskDevice, source: DiskSource | None, fdset: int, opened: ExitStack) -> dict[int, int]:
    """Descriptors of a disk's files, by descriptor set."""
    if source is None:
        return {}
    flags = os.O_RDONLY if disk.is_read_only else os.O_RDWR
    own = {fdset: open_file(source.path, opened, flags)}
    return own | {number: open_file(path, opened, flags) for number, path in source.files.items()}


def _behind(source: DiskSource | None, nodes: list[Node], sets: Iterable[int]) -> _Behind:
    return _Behind(source, tuple(str(node["node-name"]) for node in nodes), tuple(sets))
