"""An image's layers as one read-only disk, one after the other, copied nowhere.

Layers are whole MiBs long, so each begins where the one before it ends. There is no partition table: a guest is told
where the layers are. One layer is a disk as it is; more are glued by a VMDK descriptor, by names for descriptors that
QEMU was handed (`/dev/fdset/N`): https://github.com/qemu/qemu/blob/master/block/vmdk.c.
The hash trees of layers that are to be verified follow behind the last layer.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal

from atoll.errors import InvalidRequest, Unsupported
from atoll.image.durable import new_file, write_fully

DESCRIPTOR = "disk.vmdk"
"""The file in a composed disk's directory."""
FIRST_LAYER_FDSET = 100
MOST_LAYERS = 127

_SECTOR = 512
_MIB = 1 << 20


@dataclass(frozen=True)
class ComposedDisk:
    """What to open, in which format. `files` are the parts of a VMDK, by the number of the fdset that it names.

    `extents` are offset and size in bytes of each layer, bottom first; `trees` are those of the layers' hash trees, and
    the roots of these: of all layers or of none.
    """

    path: Path
    format: Literal["raw", "vmdk"]
    extents: tuple[tuple[int, int], ...]
    files: dict[int, Path] = field(default_factory=dict, hash=False)
    trees: tuple[tuple[int, int, bytes], ...] = ()


@dataclass(frozen=True)
class HashTree:
    """The file that verifies a layer, and what verifies the file (`image/verity.py`)."""

    file: Path
    root: bytes


@dataclass(frozen=True)
class DiskLayer:
    """One part to be, or two, with a `tree`."""

    diff_id: str
    squashfs: Path
    tree: HashTree | None = None


def disk_key(diff_ids: Sequence[str], *, verified: bool = False) -> str:
    """The name of the disk of these layers, with their trees or without: images with the same layers share it."""
    key = hashlib.sha256("\n".join(diff_ids).encode()).hexdigest()
    return f"{key}-verified" if verified else key


def compose_disk(layers: Sequence[DiskLayer], directory: Path, ingest: Path) -> ComposedDisk:
    """Compose the disk of `layers`, bottom first, in `directory`, unless it is there.

    Raises `InvalidRequest` without layers or when one is damaged, `Unsupported` for more than 127.
    """
    if not layers:
        raise InvalidRequest("the image has no layers, so there is nothing that a container of it could run")
    if len(layers) > MOST_LAYERS:
        raise Unsupported(f"the image has {len(layers)} layers: {MOST_LAYERS} is the most that can be run")
    sizes = [layer.squashfs.stat().st_size for layer in layers]
    for number, size in enumerate(sizes):
        if size % _MIB:
            raise InvalidRequest(f"layer {number} was damaged on disk: remove the image, then load or pull it again")
    trees = [layer.tree for layer in layers if layer.tree is not None]
    parts = [*(layer.squashfs for layer in layers), *(tree.file for tree in trees)]
    sizes += [tree.file.stat().st_size for tree in trees]
    places = tuple(zip(accumulate(sizes, initial=0), sizes, strict=False))
    extents = places[: len(layers)]
    if len(parts) == 1:
        return ComposedDisk(parts[0], "raw", extents)
    verified = tuple((*place, tree.root) for place, tree in zip(places[len(layers) :], trees, strict=True))
    descriptor = directory / DESCRIPTOR
    files = {FIRST_LAYER_FDSET + number: part for number, part in enumerate(parts)}
    if not descriptor.exists():
        directory.mkdir(parents=True, exist_ok=True)
        with new_file(ingest) as new:
            write_fully(new.file, disk_descriptor(sizes))
            new.keep_as(descriptor)
    return ComposedDisk(descriptor, "vmdk", extents, files, verified)


def disk_descriptor(sizes: Sequence[int]) -> bytes:
    """The VMDK descriptor of an image's disk: of layers with these sizes in bytes."""
    return descriptor_text(dict(enumerate(sizes, FIRST_LAYER_FDSET))).encode()


def glue(files: Sequence[Path], first_fdset: int, descriptor: Path) -> ComposedDisk:
    """One disk of `files`, one after the other; more than one need the file `descriptor`, which is written.

    Raises `OSError` when it cannot be.
    """
    sizes = [file.stat().st_size for file in files]
    extents = tuple(zip(accumulate(sizes, initial=0), sizes, strict=False))
    if len(files) == 1:
        return ComposedDisk(files[0], "raw", extents)
    numbered = {first_fdset + number: file for number, file in enumerate(files)}
    descriptor.write_text(descriptor_text(dict(zip(numbered, sizes, strict=True))))
    return ComposedDisk(descriptor, "vmdk", extents, numbered)


def descriptor_text(sizes: Mapping[int, int]) -> str:
    """The VMDK descriptor of files by fdset, with their sizes in bytes.

    QEMU wants the comment above the extents, and `RW` although the node is read-only.
    """
    extents = [f'RW {size // _SECTOR} FLAT "/dev/fdset/{number}" 0' for number, size in sizes.items()]
    return "\n".join(
        [
            "# Disk DescriptorFile",
            "version=1",
            "CID=fffffffe",
            "parentCID=ffffffff",
            'createType="twoGbMaxExtentFlat"',
            "",
            "# Extent description",
            *extents,
            "",
        ]
    )
