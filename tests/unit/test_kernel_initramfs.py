"""The initramfs: a newc archive that cpio reads, holding the agent and its modules in order."""

import io
import stat
import subprocess
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from atoll.kernel.initramfs import Entry, LoadedModule, write_archive, write_initramfs


def _archive(entries: list[Entry]) -> bytes:
    stream = io.BytesIO()
    write_archive(stream, entries)
    return stream.getvalue()


def _read(archive: bytes) -> list[Entry]:
    """The members of a newc archive, read as the kernel's description says, without our writer's help."""
    stream = io.BytesIO(archive)
    entries: list[Entry] = []
    while True:
        header = stream.read(110)
        assert header[:6] == b"070701"
        fields = [int(header[6 + 8 * index : 14 + 8 * index], 16) for index in range(13)]
        name = stream.read(fields[11])
        assert name[-1] == 0
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        data = stream.read(fields[6])
        stream.seek(-stream.tell() % 4, io.SEEK_CUR)
        if name == b"TRAILER!!!\0":
            assert stream.read() == b""
            return entries
        entries.append(Entry(name[:-1].decode(), fields[1], data, (fields[9], fields[10])))


_names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
_entries = st.lists(
    st.builds(
        Entry,
        name=_names.filter(lambda name: name != "TRAILER!!!"),
        mode=st.sampled_from([stat.S_IFREG | 0o644, stat.S_IFREG | 0o755]),
        data=st.binary(max_size=100),
    ),
    max_size=8,
)


@given(_entries)
def test_what_is_written_is_read_back(entries: list[Entry]) -> None:
    assert _read(_archive(entries)) == entries


def test_the_agent_is_init_and_modules_keep_their_order() -> None:
    stream = io.BytesIO()
    modules = [
        LoadedModule("virtio.ko", b"one"),
        LoadedModule("virtio_pci.ko", b"three"),
        LoadedModule("dm_verity.ko", b"four", on_demand=True),
    ]
    write_initramfs(stream, b"agent", modules)
    members = {entry.name: entry for entry in _read(stream.getvalue())}
    assert members["init"] == Entry("init", stat.S_IFREG | 0o755, b"agent")
    assert members["dev/console"] == Entry("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1))
    assert members["modules/order"].data == b"virtio.ko\nvirtio_pci.ko\n"
    assert members["modules/on-demand"].data == b"dm_verity.ko\n"
    assert members["modules/virtio_pci.ko"].data == b"three"
    assert members["modules/dm_verity.ko"].data == b"four"
    assert all(stat.S_ISDIR(members[name].mode) for name in ("dev", "proc", "sys", "run", "tmp", "modules"))


def test_the_same_input_gives_the_same_bytes() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for stream in (first, second):
        write_initramfs(stream, b"agent", [LoadedModule("virtio.ko", b"one")])
    assert first.getvalue() == second.getvalue()


def test_cpio_unpacks_the_archive(tmp_path: Path) -> None:
    archive = _archive([Entry("etc", stat.S_IFDIR | 0o755), Entry("etc/motd", stat.S_IFREG | 0o644, b"welcome")])
    subprocess.run(["cpio", "--extract", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "etc/motd").read_bytes() == b"welcome"
