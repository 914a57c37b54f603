"""A template: a guest that has come up, saved, for others to go on from.

It is known by everything that it was made of. Two files: `memory`, the guest's RAM (sparse), and `state`, its devices.
Loaded, they are memfds: that of the RAM is sealed, for QEMU discards pages of a file-backed guest by punching holes
into the *file*, under every other clone.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime

from msgspec import Struct, json

from atoll.vmm import AcceleratorName, SavedMachine

MEMORY_MIB = 256
"""RAM of a template, which clones share; a clone's further memory is added to it."""

_BLOCK_MIB = 128
"""The guest's kernel brings memory online in blocks of this size, and announces each."""

_PIECE_BYTES = 1 << 20
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


class TemplateKey(Struct, frozen=True, kw_only=True):
    """All that a template is made of: a clone of anything else would not be what was asked for, or not run at all.

    `kernel` and `machine` (QEMU's command line) are digests; `initramfs` is a file that is named after the digest of
    the agent, with its size; `qemu` is the program with the size and time of its file. `host` is what the host's
    processor is, where guest code runs on it directly.
    """

    kernel: str
    kernel_version: str
    initramfs: str
    atoll_version: str
    qemu: str
    machine: str
    accelerator: AcceleratorName
    host: str
    cpus: int
    memory_mib: int

    @property
    def id(self) -> str:
        """64 hexadecimal digits."""
        return hashlib.sha256(json.encode(self)).hexdigest()


class TemplateRecord(Struct, frozen=True, kw_only=True):
    """`template.json`: what the template was made of, and the digests of its two files."""

    key: TemplateKey
    memory_digest: str
    state_digest: str
    created_at: datetime


class Template:
    """A loaded template: two descriptors, which are closed with it. Clones that run do not need it any more."""

    def __init__(self, memory: int, state: int) -> None:
        self.saved = SavedMachine(memory, state)

    def seal(self) -> None:
        """Let nobody change it any more; raises `OSError` while a machine still shares its memory."""
        for descriptor in (self.saved.memory, self.saved.state):
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)

    def duplicate(self) -> "Template":
        """The same template with descriptors of its own."""
        memory = os.dup(self.saved.memory)
        try:
            return Template(memory, os.dup(self.saved.state))
        except OSError:
            os.close(memory)
            raise

    def close(self) -> None:
        """Give the memory back, as far as no clone uses it."""
        for descriptor in (self.saved.memory, self.saved.state):
            with suppress(OSError):
                os.close(descriptor)
        self.saved = SavedMachine(-1, -1)  # their numbers may be other files' from now on


def growth_mib(memory_mib: int) -> int:
    """What is added to a clone of a template so that it has `memory_mib`, or a little more."""
    return max(0, -(-(memory_mib - MEMORY_MIB) // _BLOCK_MIB) * _BLOCK_MIB)


def new_template(memory_mib: int) -> Template:
    """A template without content; raises `OSError`."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    memory = os.memfd_create("atoll-template-memory", flags)
    try:
        state = os.memfd_create("atoll-template-state", flags)
        try:
            os.ftruncate(memory, memory_mib << 20)
        except BaseException:
            os.close(state)
            raise
    except BaseException:
        os.close(memory)
        raise
    return Template(memory, state)


def copy_file(source: int, target: int) -> str:
    """Copy what is not zero from one file to another that is empty, holes staying holes; the digest of the content."""
    digest = hashlib.sha256()
    size = os.fstat(source).st_size
    digest.update(str(size).encode())
    os.ftruncate(target, size)
    for position, piece in _pieces(source, size):
        digest.update(f" {position} ".encode())
        digest.update(piece)
        written = 0
        while written < len(piece):
            written += os.pwrite(target, memoryview(piece)[written:], position + written)
    return digest.hexdigest()


def _pieces(source: int, size: int) -> Iterator[tuple[int, bytes]]:
    """The aligned pieces of a file that are not all zeros, wherever its file system has holes."""
    zeros = bytes(_PIECE_BYTES)
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole
            return
        position -= position % _PIECE_BYTES
        piece = os.pread(source, _PIECE_BYTES, position)
        if piece != zeros[: len(piece)]:
            yield position, piece
        position += _PIECE_BYTES
