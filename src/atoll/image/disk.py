"""An image's layers as one read-only disk: a GPT, then each layer's squashfs as a partition, copied nowhere.

A VMDK descriptor glues the files together by QEMU's names for descriptors it was handed (`/dev/fdset/N`). Layers are
whole MiBs long, so partition N is layer N, bottom first, and lies where the file before it ends.
https://github.com/qemu/qemu/blob/master/block/vmdk.c; the GPT: UEFI specification, chapter 5.
"""

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from uuid import UUID

from atoll.errors import InvalidRequest, Unsupported
from atoll.image.durable import new_file, write_fully

TAIL_FDSET = 97
HEAD_FDSET = 98
FIRST_LAYER_FDSET = 100
MOST_LAYERS = 127

_SECTOR = 512
_MIB = 1 << 20
_ENTRIES = 128
_ENTRY_BYTES = 128
_TABLE_SECTORS = _ENTRIES * _ENTRY_BYTES // _SECTOR
_LINUX_FILESYSTEM = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")

_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ENTRY = struct.Struct("<16s16sQQQ72s")


@dataclass(frozen=True)
class ComposedDisk:
    """`descriptor` is the VMDK to open; `files` are its parts, by the number of the fdset under which it names them.

    `extents` are offset and size in bytes of each layer, bottom first.
    """

    descriptor: Path
    files: dict[int, Path] = field(hash=False)
    extents: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class DiskLayer:
    """One partition to be."""

    diff_id: str
    squashfs: Path


def disk_key(diff_ids: Sequence[str]) -> str:
    """The name of the disk of these layers: images with the same layers share it."""
    return hashlib.sha256("\n".join(diff_ids).encode()).hexdigest()


def compose_disk(layers: Sequence[DiskLayer], directory: Path, ingest: Path) -> ComposedDisk:
    """Compose the disk of `layers`, bottom first, in `directory`, unless it is there.

    Raises `InvalidRequest` without layers, `Unsupported` for more than 127.
    """
    if not layers:
        raise InvalidRequest("the image has no layers, so there is nothing that a container of it could run")
    if len(layers) > MOST_LAYERS:
        raise Unsupported(f"the image has {len(layers)} layers: {MOST_LAYERS} is the most that can be run")
    descriptor, head, tail = directory / "disk.vmdk", directory / "head", directory / "tail"
    files = {FIRST_LAYER_FDSET + number: layer.squashfs for number, layer in enumerate(layers)}
    sizes = [layer.squashfs.stat().st_size for layer in layers]
    offsets = accumulate(sizes, initial=_MIB)
    disk = ComposedDisk(
        descriptor, {HEAD_FDSET: head, TAIL_FDSET: tail} | files, tuple(zip(offsets, sizes, strict=False))
    )
    if descriptor.exists():
        return disk
    identity = UUID(disk_key([layer.diff_id for layer in layers])[:32])
    head_bytes, tail_bytes = _gpt(identity, [UUID(layer.diff_id[7:39]) for layer in layers], sizes)
    extents = [(len(head_bytes), HEAD_FDSET)]
    extents += [(size, FIRST_LAYER_FDSET + number) for number, size in enumerate(sizes)]
    extents += [(len(tail_bytes), TAIL_FDSET)]
    directory.mkdir(parents=True, exist_ok=True)
    # The descriptor last: where it is, the rest is.
    for path, data in ((head, head_bytes), (tail, tail_bytes), (descriptor, _descriptor(extents).encode())):
        with new_file(ingest) as new:
            write_fully(new.file, data)
            new.keep_as(path)
    return disk


def _descriptor(extents: list[tuple[int, int]]) -> str:
    """The VMDK descriptor; QEMU wants the comment above the extents, and `RW` although the node is read-only."""
    lines = [f'RW {size // _SECTOR} FLAT "/dev/fdset/{fdset}" 0' for size, fdset in extents]
    return "\n".join(
        [
            "# Disk DescriptorFile",
            "version=1",
            "CID=fffffffe",
            "parentCID=ffffffff",
            'createType="twoGbMaxExtentFlat"',
            "",
            "# Extent description",
            *lines,
            "",
        ]
    )


def _gpt(disk: UUID, partitions: list[UUID], sizes: list[int]) -> tuple[bytes, bytes]:
    """The partition table in front (1 MiB) and its copy behind; without the copy the guest's kernel would complain."""
    table = bytearray()
    at = _MIB // _SECTOR
    for number, (partition, size) in enumerate(zip(partitions, sizes, strict=True)):
        if size % _MIB:
            raise InvalidRequest(f"layer {number} was damaged on disk: remove the image, then load or pull it again")
        end = at + size // _SECTOR
        name = f"layer {number}".encode("utf-16-le")
        table += _ENTRY.pack(_LINUX_FILESYSTEM.bytes_le, partition.bytes_le, at, end - 1, 0, name)
        at = end
    table = table.ljust(_ENTRIES * _ENTRY_BYTES, b"\0")
    usable = (2 + _TABLE_SECTORS, at - 1)
    backup = at + _TABLE_SECTORS
    # The head's header is at sector 1 with the table behind it, the copy's at the last sector with its table in front.
    head = _protective_mbr(backup) + _gpt_header(disk, table, 1, backup, 2, usable) + table
    tail = table + _gpt_header(disk, table, backup, 1, at, usable)
    return bytes(head.ljust(_MIB, b"\0")), bytes(tail)


def _gpt_header(disk: UUID, table: bytearray, here: int, other: int, table_at: int, usable: tuple[int, int]) -> bytes:
    def pack(checksum: int) -> bytes:
        return _HEADER.pack(
            b"EFI PART",
            0x10000,
            _HEADER.size,
            checksum,
            0,
            here,
            other,
            *usable,
            disk.bytes_le,
            table_at,
            _ENTRIES,
            _ENTRY_BYTES,
            zlib.crc32(table),
        )

    return pack(zlib.crc32(pack(0))).ljust(_SECTOR, b"\0")


def _protective_mbr(last_sector: int) -> bytes:
    """One partition of type EE over the whole disk: Linux looks for it before it believes in a GPT."""
    entry = struct.pack("<B3sB3sII", 0, b"\0\2\0", 0xEE, b"\xff\xff\xff", 1, min(last_sector, 0xFFFF_FFFF))
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"
