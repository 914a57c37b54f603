"""The image that boots: the kernel inside a bzImage where QEMU can enter it, the bzImage itself where not."""

import bz2
import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import lz4.block  # type: ignore[import-untyped]  # python-lz4 ships no annotations
import pytest
from backports import zstd
from harness.elf import PVH_NOTE, boot_image, elf, note, pvh_kernel
from hypothesis import given
from hypothesis import strategies as st

from atoll.errors import InvalidRequest
from atoll.kernel.boot_image import has_pvh_entry, read_boot_image

RELEASE = "6.1.0-13-cloud-amd64"


def _lz4(data: bytes) -> bytes:
    block: bytes = lz4.block.compress(data, store_size=False)
    return b"\x02\x21\x4c\x18" + struct.pack("<I", len(block)) + block


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress, zstd.compress, _lz4])
def test_the_kernel_inside_a_boot_image_is_unpacked(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    kernel = pvh_kernel(RELEASE)
    file = tmp_path / "vmlinuz"
    file.write_bytes(boot_image(RELEASE, compress(kernel) + struct.pack("<I", len(kernel))))
    image = read_boot_image(file)
    assert (image.version, image.data) == (RELEASE, kernel)


@pytest.mark.parametrize("payload", [b"unknown", gzip.compress(elf(), mtime=0), b"\x1f\x8bdamaged", _lz4(b"text")[:9]])
def test_a_boot_image_that_cannot_be_unpacked_boots_as_it_is(tmp_path: Path, payload: bytes) -> None:
    file = tmp_path / "vmlinuz"
    file.write_bytes(boot_image(RELEASE, payload))
    image = read_boot_image(file)
    assert (image.version, image.data) == (RELEASE, file.read_bytes())


def test_an_elf_kernel_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "vmlinux"
    file.write_bytes(pvh_kernel(RELEASE))
    image = read_boot_image(file)
    assert (image.version, image.data) == (RELEASE, file.read_bytes())


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", bytes(4096), elf()])
def test_what_is_no_kernel_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "vmlinuz"
    file.write_bytes(data)
    with pytest.raises(InvalidRequest, match=r"is not a kernel image|no PVH note"):
        read_boot_image(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="vmlinuz cannot be read: No such file or directory"):
        read_boot_image(tmp_path / "vmlinuz")


def test_the_pvh_note_is_found_among_others() -> None:
    assert has_pvh_entry(elf(notes=note(b"GNU\0", 18, b"abc") + note(b"Xen\0", 8, b"") + PVH_NOTE))
    assert not has_pvh_entry(elf(notes=note(b"GNU\0", 18, b"abcd")))


@given(st.binary(max_size=300), st.binary(max_size=64))
def test_damaged_notes_are_no_entry_point(head: bytes, notes: bytes) -> None:
    has_pvh_entry(b"\x7fELF\x02\x01" + head)
    has_pvh_entry(elf(notes=notes))
