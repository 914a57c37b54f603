"""Templates on disk: what comes back is what was kept, or it does not come back at all."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Never

import msgspec
import pytest
from harness.disks import small_disk
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.errors import AtollError, NotFound, OutOfSpace, VmFailed
from atoll.template import Template, TemplateKey, TemplateStore
from atoll.template.template import copy_file, new_template

MIB = 1 << 20
MEMORY_MIB = 8
MEMORY = {0: b"first page", 3 * MIB - 5: b"across two pieces", MEMORY_MIB * MIB - 4: b"last"}
STATE = b"devices" * 20_000
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW


def key(kernel: str = "k") -> TemplateKey:
    return TemplateKey(
        kernel=kernel, kernel_version="6.1", initramfs="i", atoll_version="0", qemu="q", machine="m",
        accelerator="tcg", host="", cpus=1, memory_mib=MEMORY_MIB,
    )  # fmt: skip


@contextmanager
def made(state: bytes = STATE) -> Iterator[Template]:
    template = new_template(MEMORY_MIB)
    for offset, data in MEMORY.items():
        os.pwrite(template.saved.memory, data, offset)
    os.pwrite(template.saved.state, state, 0)
    try:
        yield template
    finally:
        template.close()


@contextmanager
def loaded(store: TemplateStore, which: TemplateKey) -> Iterator[Template]:
    template = store.load(which)
    try:
        yield template
    finally:
        template.close()


def content(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - no descriptor of a directory in between


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "templates"


@pytest.fixture
def store(root: Path) -> TemplateStore:
    """One that keeps a template."""
    store = TemplateStore(root)
    with made() as template:
        store.keep(key(), template)
    return store


def test_what_was_kept_is_loaded_with_the_same_bytes(store: TemplateStore) -> None:
    with made() as kept, loaded(store, key()) as template:
        assert content(template.saved.memory) == content(kept.saved.memory)
        assert content(template.saved.state) == STATE


def test_a_loaded_template_cannot_be_changed_by_anybody(store: TemplateStore) -> None:
    with loaded(store, key()) as template:
        for descriptor in (template.saved.memory, template.saved.state):
            assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & SEALS == SEALS
            for change in (
                lambda: os.pwrite(descriptor, b"x", 0),  # noqa: B023
                lambda: os.ftruncate(descriptor, 0),  # noqa: B023
                lambda: os.ftruncate(descriptor, MIB << 10),  # noqa: B023
                lambda: os.posix_fallocate(descriptor, MIB << 10, 1),  # noqa: B023
            ):
                with pytest.raises(PermissionError):
                    change()


def test_holes_stay_holes_on_disk_and_in_memory(store: TemplateStore, root: Path) -> None:
    file = root / key().id / "memory"
    assert file.stat().st_size == MEMORY_MIB * MIB
    assert file.stat().st_blocks * 512 <= 4 * MIB
    assert store.list()[0].size_bytes <= 5 * MIB
    with loaded(store, key()) as template:
        assert os.fstat(template.saved.memory).st_blocks * 512 <= 4 * MIB


def test_a_template_has_files_that_only_its_owner_may_read(store: TemplateStore, root: Path) -> None:
    for path in (root, root / key().id, root / key().id / "memory", root / key().id / "state"):
        assert path.stat().st_mode & 0o077 == 0


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def lengthen(path: Path) -> None:
    os.truncate(path, path.stat().st_size + 1)


def flip(path: Path, offset: int = 5) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


def flip_in_a_hole(path: Path) -> None:
    flip(path, 100_000)


@pytest.mark.parametrize("name", ["memory", "state"])
@pytest.mark.parametrize("damage", [cut, lengthen, flip, flip_in_a_hole, Path.unlink])
def test_a_damaged_file_is_found_out_and_nothing_stays_open(
    store: TemplateStore, root: Path, damage: Callable[[Path], None], name: str
) -> None:
    damage(root / key().id / name)
    before = descriptors()
    with pytest.raises(VmFailed, match=f"damaged: {name} is not what was written"):
        store.load(key())
    assert descriptors() == before


@pytest.mark.parametrize("record", [b"", b"{", b'{"key":{}}', b"\xff\xfe", b"[" * 100_000])
def test_a_record_that_cannot_be_read_is_no_template(store: TemplateStore, root: Path, record: bytes) -> None:
    (root / key().id / "template.json").write_bytes(record)
    before = descriptors()
    with pytest.raises(NotFound):
        store.load(key())
    assert store.list() == []
    assert descriptors() == before


def test_a_template_under_another_ones_name_is_refused(store: TemplateStore, root: Path) -> None:
    (root / key().id).rename(root / key("other").id)
    before = descriptors()
    with pytest.raises(VmFailed, match="not what its name says"):
        store.load(key("other"))
    assert descriptors() == before


def test_what_is_not_there_is_not_found(store: TemplateStore) -> None:
    assert not store.has(key("other"))
    with pytest.raises(NotFound, match=key("other").id):
        store.load(key("other"))


@pytest.mark.parametrize("kib", [4, 64, 1024, 3072, 4096])
def test_a_full_disk_is_an_error_of_its_own_and_leaves_nothing(tmp_path: Path, kib: int) -> None:
    with small_disk(tmp_path, kib) as disk, made(os.urandom(2 * MIB)) as template:
        store = TemplateStore(disk)
        before = descriptors()
        with pytest.raises(OutOfSpace, match="no space left for a template"):
            store.keep(key(), template)
        assert list(disk.iterdir()) == []
        assert descriptors() == before


def test_a_template_that_cannot_be_written_leaves_the_one_that_was_there(
    store: TemplateStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: int) -> Never:
        raise OSError(errno.EIO, "the disk is broken")

    monkeypatch.setattr("os.fsync", fail)
    with made(b"newer") as template, pytest.raises(OSError, match="broken"):
        store.keep(key(), template)
    assert [path.name for path in root.iterdir()] == [key().id]
    with loaded(store, key()) as template:
        assert content(template.saved.state) == STATE


def test_a_template_takes_the_place_of_one_with_the_same_key(store: TemplateStore, root: Path) -> None:
    with made(b"newer") as template:
        store.keep(key(), template)
    with loaded(store, key()) as template:
        assert content(template.saved.state) == b"newer"
    assert len(list(root.iterdir())) == 1


def test_what_a_killed_engine_left_half_made_is_swept_away(store: TemplateStore, root: Path) -> None:
    (root / ".new-abc/template").mkdir(parents=True)
    (root / ".new-abc/template/memory").write_bytes(b"half")
    TemplateStore(root)
    assert [path.name for path in root.iterdir()] == [key().id]


def test_a_loaded_template_outlives_its_files(store: TemplateStore, root: Path) -> None:
    with loaded(store, key()) as template:
        store.remove(key().id)
        store.remove(key().id)
        assert list(root.iterdir()) == []
        assert content(template.saved.state) == STATE


def test_a_duplicate_outlives_the_original(store: TemplateStore) -> None:
    before = descriptors()
    with loaded(store, key()) as template:
        other = template.duplicate()
    assert content(other.saved.state) == STATE
    other.close()
    assert descriptors() == before


def test_the_one_that_was_used_last_is_first(store: TemplateStore, root: Path) -> None:
    for name in ("other", "third"):
        with made() as template:
            store.keep(key(name), template)
    keys = [key("third"), key(), key("other")]
    for age, each in enumerate(keys):
        os.utime(root / each.id / "template.json", (1_000_000 - age, 1_000_000 - age))
    assert [stored.record.key for stored in store.list()] == keys
    with loaded(store, key("other")):
        assert [stored.record.key for stored in store.list()] == [key("other"), *keys[:2]]
    store.touch(key("nowhere"))


def test_a_template_is_found_by_the_beginning_of_its_id(store: TemplateStore) -> None:
    assert store.find(key().id[:6]).record.key == key()
    assert store.find(key().id).record.key == key()
    for unknown in ("x", f"{key().id}0"):
        with pytest.raises(NotFound, match=f"there is no template {unknown}: 'atoll system template list'"):
            store.find(unknown)
    number = 0
    while key(str(number)).id[0] != key().id[0]:
        number += 1
    with made() as template:
        store.keep(key(str(number)), template)
    for ambiguous in ("", key().id[0]):
        with pytest.raises(NotFound, match="not one but 2 templates"):
            store.find(ambiguous)


@settings(max_examples=60)
@given(
    size=st.integers(0, 3 * MIB),
    pieces=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=5000)), max_size=5),
    padding=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200_000)), max_size=3),
)
def test_a_copy_has_the_same_content_and_its_digest_does_not_depend_on_holes(
    size: int, pieces: list[tuple[float, bytes]], padding: list[tuple[float, int]]
) -> None:
    opened = [os.memfd_create(name) for name in ("sparse", "padded", "copy", "second copy")]
    sparse, padded, copy, second = opened
    try:
        for where, length in padding:  # zeros that take room
            os.pwrite(padded, bytes(length), int(where * size))
        for where, data in pieces:
            for descriptor in (sparse, padded):
                os.pwrite(descriptor, data, int(where * size))
        for descriptor in (sparse, padded):
            os.ftruncate(descriptor, size)
        digest = copy_file(sparse, copy)
        assert content(copy) == content(sparse)
        assert copy_file(padded, second) == digest
        assert content(second) == content(sparse)
        if size:
            os.pwrite(padded, bytes([content(padded)[-1] ^ 1]), size - 1)
            assert copy_file(padded, sparse) != digest
    finally:
        for descriptor in opened:
            os.close(descriptor)


@settings(max_examples=100)
@given(garbage=st.binary(max_size=200), key_text=st.text(max_size=20))
def test_no_record_makes_the_store_fail_in_any_other_way(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, key_text: str
) -> None:
    root = tmp_path_factory.mktemp("root")
    store = TemplateStore(root)
    which = key(key_text)
    (root / which.id).mkdir()
    (root / which.id / "template.json").write_bytes(garbage)
    with pytest.raises(AtollError):
        store.load(which)
    (root / which.id / "template.json").write_bytes(msgspec.json.encode({"key": which, "memory_digest": key_text}))
    assert store.list() == []
