"""ELF files and boot images of a few bytes, for tests that read what a kernel's build makes."""

import struct

_ELF_BYTES, _SECTION_BYTES, _SEGMENT_BYTES = 64, 64, 56


def elf(*, sections: dict[str, bytes] | None = None, notes: bytes | None = None) -> bytes:
    """A 64-bit ELF file with these sections and, as its only segment, these notes."""
    names, contents, headers = b"\0", b"", [struct.pack("<II16xQQ24x", 0, 0, 0, 0)]
    for name, content in (sections or {}).items():
        headers.append(struct.pack("<II16xQQ24x", len(names), 1, _ELF_BYTES + len(contents), len(content)))
        names += name.encode() + b"\0"
        contents += content
    name_at = len(names)
    names += b".shstrtab\0"
    headers.append(struct.pack("<II16xQQ24x", name_at, 3, _ELF_BYTES + len(contents), len(names)))
    contents += names
    section_table = _ELF_BYTES + len(contents)
    segment_table = section_table + len(headers) * _SECTION_BYTES
    notes_at = segment_table + _SEGMENT_BYTES
    segments = [] if notes is None else [struct.pack("<IIQQQQQQ", 4, 4, notes_at, 0, 0, len(notes), len(notes), 4)]
    header = struct.pack(
        "<4sBBB9xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1),
        *(2, 62, 1, 0, segment_table, section_table, 0),
        *(_ELF_BYTES, _SEGMENT_BYTES, len(segments), _SECTION_BYTES, len(headers), len(headers) - 1),
    )
    return header + contents + b"".join(headers) + b"".join(segments) + (notes or b"")


def kernel_module(*depends: str) -> bytes:
    """A kernel module that depends on these."""
    return elf(sections={".modinfo": b"license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"})


def note(owner: bytes, kind: int, description: bytes) -> bytes:
    """One ELF note."""
    pad = -len(description) % 4
    return struct.pack("<III", len(owner), len(description), kind) + owner.ljust(4, b"\0") + description + bytes(pad)


PVH_NOTE = note(b"Xen\0", 18, b"\0\0\0\1\0\0\0\0")


def pvh_kernel(release: str) -> bytes:
    """An ELF kernel that QEMU could enter."""
    text = f"Linux version {release} (someone@somewhere) #1".encode()
    return elf(sections={".rodata": text}, notes=note(b"Xen\0", 6, b"linux\0") + PVH_NOTE)


def boot_image(release: str, payload: bytes) -> bytes:
    """A bzImage whose compressed kernel is `payload`."""
    image = bytearray(1024)
    image[0x1F1] = 1
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x20E, 0x300 - 0x200)
    image[0x300 : 0x300 + len(release) + 20] = f"{release} (a@b) #1 SMP".encode().ljust(len(release) + 20, b"\0")
    struct.pack_into("<II", image, 0x248, 16, len(payload))
    return bytes(image) + bytes(16) + payload
