"""Volumes: made, found, taken by one container or another, removed; and what a crash leaves of them."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from doubles.volumes import open_volumes
from hypothesis import given
from hypothesis import strategies as st

from atoll.engine.record import ContainerRecord
from atoll.engine.volume import VolumeOptions, check_volume_name
from atoll.engine.volume_use import VolumeUse
from atoll.errors import Conflict, InvalidRequest, NotFound, Unsupported
from atoll.image import ComposedDisk
from atoll.model.container import ContainerConfig, ContainerState, MountPoint

WRITES = MountPoint(type="volume", name="data", target="/data")
READS = MountPoint(type="volume", name="data", target="/data", read_only=True)


def record(id: str, *mounts: MountPoint, runs: bool = True) -> ContainerRecord:
    return ContainerRecord(
        id=id,
        name=f"name-of-{id}",
        created_at=datetime.now(UTC),
        config=ContainerConfig(image="", image_id="", hostname="", mounts=mounts),
        state=ContainerState.RUNNING if runs else ContainerState.EXITED,
    )


async def test_a_volume_is_there_for_the_next_engine(tmp_path: Path) -> None:
    with open_volumes(tmp_path) as volumes:
        made = await volumes.create("data", {"size": "20m"}, {"a": "b"})
        assert await volumes.create("data", {}, {}) == made
    (tmp_path / "volumes" / "half-made").mkdir()
    with open_volumes(tmp_path) as volumes:
        assert list(volumes) == [made]
        assert volumes.disk("data").stat().st_size == 20 << 20
    assert [path.name for path in (tmp_path / "volumes").iterdir()] == ["data"]


async def test_a_volume_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    mounts = (WRITES, MountPoint(type="volume", name="bad", target="/b", options={"size": "none"}))
    with open_volumes(tmp_path) as volumes:
        with pytest.raises(InvalidRequest, match="invalid size 'none'"):
            await volumes.provide(mounts)
        assert list(volumes) == []
    assert list((tmp_path / "volumes").iterdir()) == []


async def test_a_volume_in_use_is_not_removed(tmp_path: Path) -> None:
    with open_volumes(tmp_path, [record("c1", READS, runs=False)]) as volumes:
        await volumes.create("data", {}, {})
        with pytest.raises(Conflict, match=r"remove data: volume is in use - \[c1\]"):
            await volumes.remove("data")
        await volumes.forget(["data"])
        assert [volume.name for volume in volumes] == ["data"]
        with pytest.raises(NotFound, match="no such volume"):
            await volumes.remove("other")
        await volumes.remove("other", force=True)


async def test_one_container_writes_a_volume_or_many_read_it(tmp_path: Path) -> None:
    writer, reader, other = record("c1", WRITES), record("c2", READS), record("c3", READS)
    with open_volumes(tmp_path) as volumes:
        await volumes.create("data", {}, {})
        use = VolumeUse(volumes, lambda: (writer, reader, other))
        await use.take(reader)
        await use.take(other)
        with pytest.raises(Conflict, match="volume data is in use: container name-of-c2 reads it"):
            await use.take(writer)
        use.release("c2")
        use.release("c3")
        await use.take(writer)
        await use.take(writer)
        with pytest.raises(Conflict, match="container name-of-c1 writes it"):
            await use.take(reader)


async def test_a_volume_is_waited_for_while_the_vm_that_had_it_ends(tmp_path: Path) -> None:
    ended, next_one = record("c1", WRITES, runs=False), record("c2", WRITES)
    with open_volumes(tmp_path) as volumes:
        await volumes.create("data", {}, {})
        use = VolumeUse(volumes, lambda: (ended, next_one))
        await use.take(ended)
        waiting = asyncio.ensure_future(use.take(next_one))
        await asyncio.sleep(0)
        assert not waiting.done()
        use.release("c1")
        async with asyncio.timeout(10):
            await waiting


async def test_what_is_only_read_is_on_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(bytes(1 << 20))
    image = ComposedDisk(layer, "raw", ((0, 1 << 20),))
    mounts = (
        MountPoint(type="volume", name="read", target="/r", read_only=True),
        MountPoint(type="volume", name="first", target="/1"),
        MountPoint(type="volume", name="second", target="/2"),
        MountPoint(type="volume", name="second", target="/2r", read_only=True),
    )
    container = record("c1", *mounts)
    with open_volumes(tmp_path) as volumes:
        await volumes.provide(mounts)
        use = VolumeUse(volumes, lambda: (container,))
        disks = use.disks(container, image, tmp_path)
        files = {name: str(volumes.disk(name)) for name in ("read", "first", "second")}
    assert list(disks.image.files.values()) == [str(layer), files["read"]]
    assert disks.volumes is not None
    assert list(disks.volumes.files.values()) == [files["first"], files["second"]]
    places = {mount.target: (mount.on, mount.extent.offset_bytes, mount.read_only) for mount in disks.mounts}
    assert places == {
        "/r": ("image", 1 << 20, True),
        "/1": ("volumes", 0, False),
        "/2": ("volumes", 16 << 20, False),
        "/2r": ("volumes", 16 << 20, True),
    }


@pytest.mark.parametrize("options", [{"type": "none"}, {"o": "bind"}, {"device": "/x"}])
def test_options_of_dockers_local_driver_are_refused_by_name(options: dict[str, str]) -> None:
    with pytest.raises(Unsupported, match="mount the directory with -v"):
        VolumeOptions.parse(options)


@pytest.mark.parametrize("options", [{"size": "0"}, {"size": "x"}, {"size": "1g", "shared": ""}, {"shared": "maybe"}])
def test_a_bad_option_is_refused(options: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest):
        VolumeOptions.parse(options)


@given(st.text())
def test_a_name_that_is_taken_is_a_name_of_a_directory(name: str) -> None:
    try:
        check_volume_name(name)
    except InvalidRequest:
        return
    assert name == Path(name).name
    assert not name.startswith(".")
