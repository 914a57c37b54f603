"""`system check`: every kind of damage is found, and mended where something whole is left to mend it from."""

import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from harness.archives import directory, file, tar

from atoll.image import Checked, ContentStore, Finding
from atoll.store.database import Database

ROOT = tar([directory("bin"), file("bin/sh", b"#!" * 1000), file("etc/reef", b"coral")])
UPPER = tar([file("etc/.wh.reef"), file("new", b"n")])


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def archive(*blobs: bytes, layers: tuple[bytes, ...] = (ROOT, UPPER)) -> bytes:
    """A docker-archive of the image reef:1, whose layers are there as `blobs`."""
    rootfs = {"type": "layers", "diff_ids": [digest(layer) for layer in layers]}
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": rootfs}).encode()
    names = [f"{number}.tar" for number in range(len(blobs))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": ["reef:1"], "Layers": names}]).encode()
    members = [file(name, blob) for name, blob in zip(names, blobs, strict=True)]
    return tar([*members, file("config.json", config), file("manifest.json", manifest)])


class Store:
    """A store with the image reef:1 of two layers, and what a check says of it."""

    def __init__(self, root: Path) -> None:
        self.content = root / "content"
        self.store = ContentStore(self.content, Database(root / "atoll.db"))
        self.used: set[str] = set()
        self.found: list[Finding] = []

    async def fill(self) -> None:
        await self.load(ROOT, UPPER)
        await self.store.image_disk(await self.store.get("reef:1"))

    async def load(self, *blobs: bytes) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield archive(*blobs)

        await self.store.load(chunks())

    async def check(self, *, repair: bool = False) -> Checked:
        self.found = []

        async def report(finding: Finding) -> None:
            self.found.append(finding)

        return await self.store.upkeep.check(report, lambda image_id: image_id in self.used, repair=repair)

    @property
    def outcomes(self) -> list[tuple[str, str]]:
        """Of the last check: kind and outcome of what was found."""
        return [(finding.kind, finding.outcome.value) for finding in self.found]

    def blob(self, data: bytes) -> Path:
        return self.content / "blobs/sha256" / digest(data)[7:]

    def layer(self, data: bytes) -> Path:
        return self.content / "layers" / f"{digest(data)[7:]}.squashfs"

    @property
    def disk(self) -> Path:
        (descriptor,) = (self.content / "disks").glob("*/disk.vmdk")
        return descriptor

    @property
    def config(self) -> Path:
        blobs = {self.blob(ROOT), self.blob(UPPER)}
        (config,) = set((self.content / "blobs/sha256").iterdir()) - blobs
        return config


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    await made.fill()
    return made


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def remove(path: Path) -> None:
    path.unlink()


Harm = Callable[[Path], None]
each_harm = pytest.mark.parametrize("harm", [flip, cut, remove])


async def test_a_whole_store_is_clean(store: Store) -> None:
    await store.store.writable_disk(store.content.parent / "disk", 32 << 20)
    assert await store.check() == Checked(images=1, blobs=3, layers=2, disks=2)
    assert store.found == []


@pytest.mark.parametrize("is_recorded", [True, False])
@each_harm
async def test_a_damaged_layer_is_found_and_made_anew_from_its_blob(
    store: Store, harm: Harm, is_recorded: bool
) -> None:
    whole = store.layer(ROOT).read_bytes()
    while is_recorded and await store.store.upkeep.take_checksum():
        pass
    harm(store.layer(ROOT))
    assert (await store.check()).left == 2
    assert store.outcomes == [("layer", "left"), ("image", "left")]
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("layer", "repaired")]
    assert store.layer(ROOT).read_bytes() == whole
    assert (await store.check()).found == 0


@each_harm
async def test_an_image_whose_blob_is_damaged_is_removed(store: Store, harm: Harm) -> None:
    await store.check()
    harm(store.blob(UPPER))
    assert (await store.check()).left == 2
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("blob", "removed"), ("image", "removed")]
    assert await store.store.list() == []
    assert [path for path in store.content.rglob("*") if path.is_file()] == []
    await store.fill()
    assert (await store.check()).found == 0


@each_harm
async def test_an_image_that_a_container_has_is_only_reported(store: Store, harm: Harm) -> None:
    store.used = {(await store.store.get("reef:1")).id}
    harm(store.blob(UPPER))
    assert (await store.check(repair=True)).left == 2
    assert store.found[-1].problem.endswith("a container has it: load or pull it again")
    assert store.layer(UPPER).exists()
    await store.load(ROOT, UPPER)
    assert (await store.check()).found == 0


async def test_another_blob_of_the_same_layer_is_enough(store: Store) -> None:
    packed = gzip.compress(UPPER, mtime=0)
    await store.load(ROOT, packed)
    flip(store.blob(packed))
    flip(store.layer(UPPER))
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("blob", "removed"), ("layer", "repaired")]
    assert (await store.check()).found == 0


@each_harm
async def test_an_image_without_its_configuration_is_removed(store: Store, harm: Harm) -> None:
    harm(store.config)
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("blob", "removed"), ("image", "removed")]


@pytest.mark.parametrize("harm", [flip, cut])
async def test_a_composed_disk_that_shows_something_else_is_composed_anew(store: Store, harm: Harm) -> None:
    whole = store.disk.read_bytes()
    harm(store.disk)
    assert (await store.check()).left == 1
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("disk", "repaired")]
    assert store.disk.read_bytes() == whole


@pytest.mark.parametrize("harm", [flip, cut])
async def test_a_hash_tree_that_is_not_its_layers_is_made_anew(store: Store, harm: Harm) -> None:
    image = await store.store.get("reef:1")
    await store.store.image_disk(image, verified=True)
    assert (await store.check()).disks == 2
    tree = next((store.content / "verity").iterdir())
    whole = tree.read_bytes()
    harm(tree)
    assert (await store.check()).left >= 1
    assert (await store.check(repair=True)).left == 0
    await store.store.image_disk(image, verified=True)
    assert tree.read_bytes() == whole
    assert (await store.check()).found == 0


async def test_a_damaged_file_system_for_containers_is_formatted_anew(store: Store, tmp_path: Path) -> None:
    await store.store.writable_disk(tmp_path / "first", 32 << 20)
    (formatted,) = (store.content / "writable").iterdir()
    with formatted.open("r+b") as disk:
        disk.seek(1024 + 4)
        disk.write(b"\xff" * 16)
    assert (await store.check()).left == 1
    assert (await store.check(repair=True)).left == 0
    assert store.outcomes == [("disk", "repaired")]
    await store.store.writable_disk(tmp_path / "second", 32 << 20)
    assert (await store.check()).found == 0


async def test_files_that_nobody_names_are_found_and_removed(store: Store) -> None:
    strangers = [store.layer(b"nobody's"), store.blob(b"nobody's"), store.content / "disks/nobody's"]
    for stranger in strangers:
        stranger.write_bytes(b"")
    assert (await store.check()).left == 3
    assert {finding.name for finding in store.found} == {str(path) for path in strangers}
    assert (await store.check(repair=True)).left == 0
    assert not any(stranger.exists() for stranger in strangers)
    assert (await store.check()).found == 0


async def test_a_layer_in_use_is_not_changed_under_who_reads_it(store: Store) -> None:
    await store.check()
    flip(store.layer(ROOT))
    damaged = store.layer(ROOT).read_bytes()
    with store.layer(ROOT).open("rb") as opened:
        await store.check(repair=True)
        assert opened.read() == damaged
    assert store.layer(ROOT).read_bytes() != damaged


async def test_a_checksum_goes_with_the_last_image_that_has_the_layer(store: Store, tmp_path: Path) -> None:
    while await store.store.upkeep.take_checksum():
        pass
    count = "SELECT count(*) FROM layer_checksum"
    assert Database(tmp_path / "atoll.db").query(count)[0][0] == 2
    await store.store.remove("reef:1")
    assert Database(tmp_path / "atoll.db").query(count)[0][0] == 0
