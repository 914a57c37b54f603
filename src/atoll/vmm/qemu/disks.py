"""Other files behind the disks of a running machine.

Between each disk's device and its file stands a `raw` node; that node is given another file to stand on.
"""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from atoll.vmm.monitor import DiskSource
from atoll.vmm.qemu.command_line import IMAGE, WRITABLE, Node, first_node, image_nodes, writable_nodes
from atoll.vmm.qemu.control import Control
from atoll.vmm.qemu.handover import open_file

# Descriptor sets of files that come later: above those of the command line, below a composed image's own.
_FIRST_SET = 1000


@dataclass(frozen=True)
class _Behind:
    """What is behind a disk now: nodes, the top one last, and the descriptor sets that they use."""

    nodes: tuple[str, ...]
    sets: tuple[int, ...]


class Disks:
    """The two disks of one machine; `image` and `writable` say what it was created with."""

    def __init__(self, control: Control, image: DiskSource | None, writable: Path | None) -> None:
        self._control = control
        self._changes = 0
        self._behind = {
            IMAGE: _behind(image_nodes(image, first_node(IMAGE), 0), () if image is None else tuple(image.files)),
            WRITABLE: _behind(writable_nodes(writable is not None, first_node(WRITABLE), 0), ()),
        }

    async def change(self, image: DiskSource | None, writable: Path | None) -> None:
        """See `Machine.change_disks`."""
        self._changes += 1
        image_set, writable_set = (_FIRST_SET + 2 * self._changes + number for number in range(2))
        image_top, writable_top = (f"{disk}-file-{self._changes}" for disk in (IMAGE, WRITABLE))
        files: dict[int, int] = {}
        with ExitStack() as opened:
            if image is not None:
                files[image_set] = open_file(image.path, opened)
                files |= {number: open_file(path, opened) for number, path in image.files.items()}
            if writable is not None:
                files[writable_set] = open_file(writable, opened, os.O_RDWR)
            for number, descriptor in files.items():
                await self._control.add_to_set(descriptor, number)
        image_sets = () if image is None else (image_set, *image.files)
        nodes = writable_nodes(writable is not None, writable_top, writable_set)
        sets = () if writable is None else (writable_set,)
        # QEMU carries them out in the order of their sending; to wait for each would take twice as long.
        commands = (
            *self._put(IMAGE, image_nodes(image, image_top, image_set), image_sets, {"read-only": True}),
            *self._put(WRITABLE, nodes, sets, {"discard": "unmap"}),
        )
        answers = await asyncio.gather(
            *(self._control.execute(*command) for command in commands), return_exceptions=True
        )
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer

    def _put(
        self, disk: str, nodes: list[Node], sets: tuple[int, ...], options: dict[str, object]
    ) -> Iterator[tuple[str, Mapping[str, object]]]:
        """The commands that put `nodes` behind a disk, and take away what was there."""
        old, new = self._behind[disk], _behind(nodes, sets)
        self._behind[disk] = new
        yield from (("blockdev-add", node) for node in nodes)
        top = {"driver": "raw", "node-name": disk, "file": new.nodes[-1], **options}
        yield "blockdev-reopen", {"options": [top]}
        yield from (("blockdev-del", {"node-name": name}) for name in reversed(old.nodes))
        yield from (("remove-fd", {"fdset-id": number}) for number in old.sets)


def _behind(nodes: list[Node], sets: tuple[int, ...]) -> _Behind:
    return _Behind(tuple(str(node["node-name"]) for node in nodes), sets)
