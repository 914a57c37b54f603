"""What a VM boots: the ELF kernel that lies compressed inside a distribution's bzImage.

It is unpacked here once, so that no guest does it at each boot: under emulation that takes 0.2 s
(docs/adr/0003-device-set.md). QEMU enters it at its PVH entry point. A kernel without one, or with a compression
unknown to us, boots as the bzImage that it is. Formats: the kernel's Documentation/arch/x86/boot.rst, Xen's
docs/misc/pvh.pandoc for the ELF note.
"""

import bz2
import lzma
import re
import struct
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]  # python-lz4 ships no annotations

from atoll.errors import InvalidRequest

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_BOOT_FLAG = struct.Struct("<H")
_SETUP_SECTORS_AT, _BOOT_FLAG_AT, _MAGIC_AT, _VERSION_AT, _PAYLOAD_AT = 0x1F1, 0x1FE, 0x202, 0x20E, 0x248
_SECTOR_BYTES = 512
_LZ4_BLOCK_BYTES = 8 << 20
_ELF_MAGIC = b"\x7fELF"
_ELF_64_LITTLE_ENDIAN = b"\x02\x01"
_NOTE_SEGMENT = 4
_SEGMENT = struct.Struct("<IIQQQQ")  # type, flags, offset, addresses, length
_XEN_PVH_ENTRY = 18
_RELEASE = re.compile(rb"Linux version (\S+) \(")
_DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    zlib.error,
    zstd.ZstdError,
    lz4.block.LZ4BlockError,
)


@dataclass(frozen=True)
class BootImage:
    """A kernel's release (`uname -r`) and the bytes to boot."""

    version: str
    data: bytes


def read_boot_image(file: Path) -> BootImage:
    """The kernel in `file`, a bzImage or an ELF file with a PVH entry point; raises `InvalidRequest`."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"kernel {file} cannot be read: {error.strerror}") from error
    if data.startswith(_ELF_MAGIC):
        return _elf_image(file, data)
    try:
        (flag,) = _BOOT_FLAG.unpack_from(data, _BOOT_FLAG_AT)
        if flag != 0xAA55 or data[_MAGIC_AT : _MAGIC_AT + 4] != b"HdrS":
            raise ValueError("no boot header")
        (version_at,) = struct.unpack_from("<H", data, _VERSION_AT)
        release = data[version_at + _SECTOR_BYTES :].split(b"\0", 1)[0].split(b" ", 1)[0].decode("ascii")
    except (struct.error, ValueError) as error:
        raise InvalidRequest(f"{file} is not a kernel image: a bzImage (vmlinuz) for x86-64 is wanted") from error
    elf = _unpack(_payload(data))
    return BootImage(version=release, data=elf if elf is not None and has_pvh_entry(elf) else data)


def has_pvh_entry(elf: bytes) -> bool:
    """Whether `elf` says with a note where a monitor shall enter it in 32-bit mode (CONFIG_PVH)."""
    if elf[:4] != _ELF_MAGIC or elf[4:6] != _ELF_64_LITTLE_ENDIAN:
        return False
    try:
        (table,) = struct.unpack_from("<Q", elf, 32)
        entry_bytes, count = struct.unpack_from("<HH", elf, 54)
        for index in range(count):
            kind, _, offset, _, _, length = _SEGMENT.unpack(
                elf[(start := table + index * entry_bytes) : start + _SEGMENT.size]
            )
            if kind == _NOTE_SEGMENT and _has_pvh_note(elf[offset : offset + length]):
                return True
    except struct.error:
        pass
    return False


def _has_pvh_note(notes: bytes) -> bool:
    offset = 0
    while offset + 12 <= len(notes):
        name_bytes, description_bytes, kind = struct.unpack_from("<III", notes, offset)
        if kind == _XEN_PVH_ENTRY and notes[offset + 12 : offset + 16] == b"Xen\0":
            return True
        offset += 12 + (name_bytes + 3 & ~3) + (description_bytes + 3 & ~3)
    return False


def _elf_image(file: Path, data: bytes) -> BootImage:
    release = _RELEASE.search(data)
    if release is None or not has_pvh_entry(data):
        raise InvalidRequest(
            f"{file} is an ELF file, but not a kernel that QEMU can enter: no PVH note; give its bzImage (vmlinuz)"
        )
    return BootImage(version=release[1].decode("ascii", "replace"), data=data)


def _payload(data: bytes) -> bytes:
    """The compressed kernel; the last four bytes are its unpacked length, which no decompressor minds."""
    offset, length = struct.unpack_from("<II", data, _PAYLOAD_AT)
    start = ((data[_SETUP_SECTORS_AT] or 4) + 1) * _SECTOR_BYTES + offset
    return data[start : start + length]


def _unpack(payload: bytes) -> bytes | None:
    for magic, decompress in _DECOMPRESSORS.items():
        if payload.startswith(magic):
            try:
                return decompress(payload)
            except _DAMAGED:
                return None
    return None


def _unpack_lz4(payload: bytes) -> bytes:
    # The legacy frame: after the magic, blocks that each unpack to at most 8 MiB, with their length before them.
    offset, blocks = 4, []
    while offset + 8 < len(payload):
        (length,) = struct.unpack_from("<I", payload, offset)
        offset += 4
        blocks.append(lz4.block.decompress(payload[offset : offset + length], uncompressed_size=_LZ4_BLOCK_BYTES))
        offset += length
    return b"".join(blocks)


_DECOMPRESSORS: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": lambda payload: zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(payload),
    b"\xfd7zXZ\0": lambda payload: lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload),
    b"\x5d\0\0": lambda payload: lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(payload),
    b"BZh": lambda payload: bz2.BZ2Decompressor().decompress(payload),
    b"\x28\xb5\x2f\xfd": lambda payload: zstd.ZstdDecompressor().decompress(payload),
    b"\x02\x21\x4c\x18": _unpack_lz4,
}
