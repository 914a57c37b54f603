import asyncio
import gzip
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

import pytest
from harness.archives import Member, directory, file, symlink, tar
from harness.disks import small_disk

from atoll.errors import AtollError, Conflict, InvalidRequest, NotFound, OutOfSpace
from atoll.image import ContentStore, Limits
from atoll.store.database import Database


def open_store(root: Path, limits: Limits = Limits(layer_bytes=1 << 28)) -> ContentStore:  # noqa: B008
    root.mkdir(exist_ok=True)
    return ContentStore(root / "content", Database(root / "atoll.db"), limits=limits)


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return open_store(tmp_path / "root")


async def chunks(data: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def files(root: Path) -> set[str]:
    """Everything in the store but what it may always have: empty directories and formatted disks."""
    content = root / "content"
    found = (path for path in content.rglob("*") if path.is_file())
    return {str(path.relative_to(content)) for path in found if path.parent.name != "writable"}


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


ROOT = tar([directory("bin"), file("bin/sh", b"#!" * 1000), file("etc/reef", b"coral")])
UPPER = tar([file("etc/.wh.reef"), file("new", b"n")])


def image_config(*layers: bytes, **changes: object) -> bytes:
    diff_ids = [digest(layer) for layer in layers]
    document = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    return json.dumps({**document, "config": {"Cmd": ["sh"]}, **changes}).encode()


def docker_archive(
    *layers: bytes, tags: Iterable[str] = ("reef:1",), config: bytes = b"", extra: Iterable[Member] = ()
) -> bytes:
    config = config or image_config(*layers)
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": "config.json", "RepoTags": list(tags), "Layers": names}]
    members = [file(name, layer) for name, layer in zip(names, layers, strict=True)]
    members += [file("config.json", config), file("manifest.json", json.dumps(manifest).encode()), *extra]
    return tar(members)


def oci_layout(*layers: bytes, name: str = "reef:oci", config: bytes = b"", **changes: object) -> bytes:
    config = config or image_config(*layers)

    def describe(kind: str, data: bytes) -> dict[str, object]:
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}

    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "config": describe("config.v1+json", config),
            "layers": [describe("layer.v1.tar+gzip", layer) for layer in layers],
        }
    ).encode()
    entry = {**describe("manifest.v1+json", manifest), **changes}
    entry.setdefault("annotations", {"org.opencontainers.image.ref.name": name})
    index = json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode()
    blobs = [file(f"blobs/sha256/{digest(data)[7:]}", data) for data in (manifest, config, *layers)]
    return tar([file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), *blobs, file("index.json", index)])


async def test_an_imported_root_is_an_image_of_one_layer(store: ContentStore) -> None:
    image = await store.import_(chunks(ROOT), "reef", ['CMD ["sh"]', "ENV A=b"])
    assert image.repo_tags == ("reef:latest",)
    assert [layer.diff_id for layer in image.layers] == [digest(ROOT)]
    assert image.config.execution.cmd == ("sh",)
    assert image.size_bytes > len(b"#!" * 1000)
    assert (await store.get("reef")) == image == (await store.get(image.id)) == (await store.get(image.id[7:19]))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("archive", [docker_archive, oci_layout])
async def test_an_image_is_loaded_from_either_kind_of_archive(
    store: ContentStore, pack: Callable[[bytes], bytes], archive: Callable[..., bytes]
) -> None:
    (name,) = await store.load(chunks(pack(archive(ROOT, UPPER))))
    image = await store.get(name)
    assert image.id == digest(image_config(ROOT, UPPER))
    assert [layer.diff_id for layer in image.layers] == [digest(ROOT), digest(UPPER)]
    assert image.repo_tags == (name,)


async def test_layers_in_an_oci_layout_may_be_compressed(store: ContentStore) -> None:
    layer = gzip.compress(ROOT)
    (name,) = await store.load(chunks(oci_layout(layer, config=image_config(ROOT))))
    assert (await store.get(name)).layers[0].diff_id == digest(ROOT)


async def test_several_images_share_their_layers(store: ContentStore, tmp_path: Path) -> None:
    configs = [image_config(ROOT), image_config(ROOT, UPPER)]
    manifest = [
        {"Config": "a.json", "RepoTags": ["a:1", "a:2"], "Layers": ["0/layer.tar"]},
        {"Config": "b.json", "RepoTags": None, "Layers": ["same/layer.tar", "1/layer.tar"]},
    ]
    members = [file("0/layer.tar", ROOT), symlink("same/layer.tar", "../0/layer.tar"), file("1/layer.tar", UPPER)]
    members += [file("a.json", configs[0]), file("b.json", configs[1])]
    members += [file("manifest.json", json.dumps(manifest).encode())]
    names = await store.load(chunks(tar(members)))
    assert names == ["a:1", "a:2", digest(configs[1])]
    assert len([name for name in files(tmp_path / "root") if name.startswith("layers/")]) == 2


async def test_the_same_archive_loaded_many_times_at_once_is_one_image(store: ContentStore) -> None:
    archive = docker_archive(ROOT, UPPER)
    loaded = await asyncio.gather(*(store.load(chunks(archive)) for _ in range(5)))
    assert loaded == [["reef:1"]] * 5
    assert len(await store.list()) == 1


async def test_an_index_in_an_archive_is_resolved_to_our_platform(store: ContentStore) -> None:
    platform = {"os": "linux", "architecture": "arm64"}
    with pytest.raises(NotFound, match="linux/amd64"):
        await store.load(chunks(oci_layout(ROOT, platform=platform)))


@pytest.mark.parametrize(
    ("archive", "why"),
    [
        (ROOT, "no image archive"),
        (b"", "no image archive"),
        (b"junk" * 1000, "no tar archive"),
        (docker_archive(ROOT)[:5000], "cut off"),
        (gzip.compress(docker_archive(ROOT))[:-20], "cut off"),
        (docker_archive(ROOT, config=image_config(UPPER)), "not what the image says"),
        (docker_archive(ROOT, config=image_config(ROOT, UPPER)), "names 2 layers"),
        (docker_archive(ROOT, config=b"{}"), "configuration is malformed"),
        (docker_archive(b"no tar", config=image_config(b"no tar")), "no tar archive"),
        (docker_archive(tar([file("../x")])), r"'\.\.'"),
        (docker_archive(ROOT, tags=["Reef"]), "lowercase"),
        (docker_archive(ROOT, extra=[file("../x")]), "leads out"),
        (docker_archive(ROOT, extra=[file("/x")]), "leads out"),
        (tar([file("manifest.json", b"[{}]")]), "malformed"),
        (tar([file("manifest.json", b'[{"Config": "x", "Layers": []}]')]), "not whole"),
        (tar([file("manifest.json", b'[{"Config": "../../etc/passwd", "Layers": []}]')]), "not whole"),
        (tar([symlink("manifest.json", "/etc/passwd")]), "no image archive"),
        (tar([symlink("a", "b"), symlink("b", "a"), file("manifest.json", b'[{"Config": "a"}]')]), "not whole"),
        (oci_layout(ROOT).replace(b"coral", b"kelp!"), "not what it claims"),
        (oci_layout(ROOT, digest="sha256:" + "0" * 64), "not whole"),
        (oci_layout(ROOT, digest="sha256:../../x"), "malformed"),
    ],
)
async def test_a_bad_archive_is_refused_and_leaves_nothing(
    store: ContentStore, tmp_path: Path, archive: bytes, why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await store.load(chunks(archive))
    assert files(tmp_path / "root") == set()
    assert await store.list() == []


@pytest.mark.parametrize(
    ("data", "name", "changes", "why"),
    [
        (ROOT, "Reef", [], "lowercase"),
        (ROOT, "reef@sha256:" + "0" * 64, [], "digest reference"),
        (ROOT, "reef", ["NONSENSE"], "not a valid change"),
        (b"", "reef", [], "empty"),
        (b"x" * 5000, "reef", [], "no tar archive"),
        (ROOT[:1000], "reef", [], "cut off"),
        (tar([file("../x")]), "reef", [], "leads out"),
        (gzip.compress(tar([file("x", bytes(1 << 29))])), "reef", [], "bomb"),
    ],
)
async def test_a_bad_import_is_refused_and_leaves_nothing(
    store: ContentStore, tmp_path: Path, data: bytes, name: str, changes: list[str], why: str
) -> None:
    with pytest.raises(InvalidRequest, match=why):
        await store.import_(chunks(data), name, changes)
    assert files(tmp_path / "root") == set()


async def test_an_error_of_the_sender_ends_the_import_and_leaves_nothing(store: ContentStore, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield ROOT[:700]
        raise ConnectionResetError("the client went away")

    with pytest.raises(ConnectionResetError):
        await store.import_(broken(), "reef", [])
    assert files(tmp_path / "root") == set()


@pytest.mark.parametrize("what", ["load", "import"])
async def test_a_cancelled_upload_leaves_nothing(store: ContentStore, tmp_path: Path, what: str) -> None:
    reached = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield docker_archive(ROOT)[:3000]
        reached.set()
        await asyncio.Event().wait()

    work = store.load(stalling()) if what == "load" else store.import_(stalling(), "reef", [])
    task = asyncio.ensure_future(work)
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert files(tmp_path / "root") == set()


async def test_a_full_disk_is_an_error_of_its_own_and_leaves_nothing(tmp_path: Path) -> None:
    big = tar([file("big", os.urandom(3_000_000))])
    with small_disk(tmp_path, 2048) as disk:
        store = ContentStore(disk / "content", Database(tmp_path / "atoll.db"))
        with pytest.raises(OutOfSpace, match="no space left"):
            await store.import_(chunks(big, 1 << 20), "reef", [])
        with pytest.raises(OutOfSpace, match="no space left"):
            await store.load(chunks(docker_archive(big), 1 << 20))
        assert files(disk) == set()
        await store.import_(chunks(ROOT), "reef", [])


async def test_what_a_crash_left_is_swept_at_the_next_start(store: ContentStore, tmp_path: Path) -> None:
    root = tmp_path / "root"
    image = await store.import_(chunks(ROOT), "reef", [])
    await store.image_disk(image)
    before = files(root)
    content = root / "content"
    (content / "ingest" / "tmpabc").write_bytes(b"half a layer")
    (content / "layers" / ("0" * 64 + ".squashfs")).write_bytes(b"a layer without an image")
    (content / "blobs" / "sha256" / ("0" * 64)).write_bytes(b"a blob without an image")
    (content / "disks" / ("0" * 64)).mkdir()
    store = open_store(root)
    assert files(root) == before
    assert (await store.get("reef")).id == image.id


async def test_removing_the_last_name_removes_the_image_and_what_only_it_needed(
    store: ContentStore, tmp_path: Path
) -> None:
    await store.load(chunks(docker_archive(ROOT, tags=["a:1"])))
    kept = files(tmp_path / "root")
    await store.load(chunks(docker_archive(ROOT, UPPER, tags=["b:1", "b:2"])))
    image = await store.get("b:1")
    await store.image_disk(image)
    assert await store.remove("b:1") == [{"Untagged": "b:1"}]
    assert (await store.get("b:2")).id == image.id
    assert await store.remove("b:2") == [{"Untagged": "b:2"}, {"Deleted": image.id}]
    assert files(tmp_path / "root") == kept
    with pytest.raises(NotFound):
        await store.get(image.id)


async def test_an_image_is_removed_by_id_with_all_names_of_one_repository(store: ContentStore) -> None:
    await store.load(chunks(docker_archive(ROOT, tags=["a:1", "a:2"])))
    image = await store.get("a:1")
    removed = await store.remove(image.id[7:15])
    assert removed == [{"Untagged": "a:1"}, {"Untagged": "a:2"}, {"Deleted": image.id}]


async def test_an_id_of_several_repositories_is_removed_only_by_force(store: ContentStore) -> None:
    await store.load(chunks(docker_archive(ROOT, tags=["a:1", "b:1"])))
    image = await store.get("a:1")
    with pytest.raises(Conflict, match="multiple repositories"):
        await store.remove(image.id)
    assert {"Deleted": image.id} in await store.remove(image.id, force=True)


async def test_an_image_in_use_keeps_its_layers_and_may_lose_its_name(store: ContentStore) -> None:
    await store.load(chunks(docker_archive(ROOT)))
    image = await store.get("reef:1")
    with pytest.raises(Conflict, match="used by a container"):
        await store.remove("reef:1", in_use={image.id})
    assert await store.remove("reef:1", force=True, in_use={image.id}) == [{"Untagged": "reef:1"}]
    assert (await store.get(image.id)).repo_tags == ()
    assert image.layers[0].squashfs.exists()
    assert await store.remove(image.id) == [{"Deleted": image.id}]


async def test_a_name_moves_from_one_image_to_another(store: ContentStore) -> None:
    old = await store.import_(chunks(ROOT), "reef", [])
    new = await store.import_(chunks(UPPER), "reef", [])
    assert (await store.get("reef")).id == new.id
    assert (await store.get(old.id)).repo_tags == ()
    await store.tag(old.id, "localhost:5000/old:x")
    assert (await store.get("localhost:5000/old:x")).id == old.id
    assert {image.id for image in await store.list()} == {old.id, new.id}


NOBODY = "sha256:" + "0" * 64


@pytest.mark.parametrize("name", ["nothing", NOBODY, "0123", "UPPER", "a b", "", f"reef@{NOBODY}"])
async def test_an_image_that_is_not_here_is_not_found(store: ContentStore, name: str) -> None:
    await store.import_(chunks(ROOT), "reef", [])
    with pytest.raises(NotFound, match="is not here"):
        await store.get(name)
    with pytest.raises(AtollError):
        await store.remove(name)


async def test_the_beginning_of_an_id_must_mean_one_image(store: ContentStore) -> None:
    ids = [(await store.import_(chunks(ROOT), None, [f"ENV A={n}"])).id[7:] for n in range(17)]
    first = next(one[0] for one in ids if sum(other[0] == one[0] for other in ids) > 1)
    with pytest.raises(NotFound, match="write more"):
        await store.get(first)


async def test_a_file_of_another_name_is_never_read_for_a_damaged_configuration(
    store: ContentStore, tmp_path: Path
) -> None:
    image = await store.import_(chunks(ROOT), "reef", [])
    (tmp_path / "root/content/blobs/sha256" / image.id[7:]).write_bytes(image_config(UPPER))
    with pytest.raises(InvalidRequest, match="damaged"):
        await open_store(tmp_path / "root").get("reef")


async def test_the_disk_of_an_image_holds_its_layers(store: ContentStore) -> None:
    await store.load(chunks(docker_archive(ROOT, UPPER)))
    image = await store.get("reef:1")
    disk = await store.image_disk(image)
    assert [disk.files[100 + number] for number in range(2)] == [layer.squashfs for layer in image.layers]
    image.layers[0].squashfs.unlink()
    with pytest.raises(NotFound, match="load or pull"):
        await store.image_disk(image)


async def test_archives_of_skopeo_are_loaded(store: ContentStore, tmp_path: Path) -> None:
    source = tmp_path / "docker.tar"
    source.write_bytes(docker_archive(ROOT, UPPER))
    for kind in ("docker-archive", "oci-archive"):
        out = tmp_path / f"{kind}.tar"
        command = ("skopeo", "--insecure-policy", "copy", "-q", f"docker-archive:{source}", f"{kind}:{out}:reef:{kind}")
        copying = await asyncio.create_subprocess_exec(*command)
        assert await copying.wait() == 0
        assert await store.load(chunks(out.read_bytes())) == [f"reef:{kind}"]
        image = await store.get(f"reef:{kind}")
        assert [layer.diff_id for layer in image.layers] == [digest(ROOT), digest(UPPER)]


async def test_old_archives_of_docker_with_other_files_are_loaded(store: ContentStore) -> None:
    extra = [file("repositories", b"{}"), directory("0"), file("0/VERSION", b"1.0"), file("0/json", b"{}")]
    assert await store.load(chunks(docker_archive(ROOT, extra=extra))) == ["reef:1"]


CRASHING_LOAD = """
import asyncio, os, sys
from pathlib import Path
from atoll.image import ContentStore
from atoll.store.database import Database

root, archive, left = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])

def dying(call):
    def wrapped(*arguments, **named):
        global left
        left -= 1
        if not left:
            os._exit(9)
        return call(*arguments, **named)
    return wrapped

async def load():
    async def chunks():
        yield archive.read_bytes()
    store = ContentStore(root / "content", Database(root / "atoll.db"))
    for name in ("fsync", "rename", "link", "unlink", "write"):
        setattr(os, name, dying(getattr(os, name)))
    await store.load(chunks())

asyncio.run(load())
"""


@pytest.mark.parametrize("step", [1, 2, 3, 5, 8, 12, 17, 23, 30])
def test_a_load_that_dies_at_any_step_leaves_the_old_state_or_the_new(tmp_path: Path, step: int) -> None:
    root = tmp_path / "root"
    root.mkdir()
    archive = tmp_path / "archive.tar"
    archive.write_bytes(docker_archive(ROOT, UPPER))
    command: list[str | Path] = [sys.executable, "-c", CRASHING_LOAD, root, archive, str(step)]
    died = subprocess.run(command, check=False).returncode

    async def look() -> None:
        store = open_store(root)
        images = await store.list()
        assert [image.repo_tags for image in images] == ([] if died else [("reef:1",)])
        for image in images:
            await store.image_disk(image)
        assert bool(files(root)) is bool(images)
        assert await store.load(chunks(archive.read_bytes())) == ["reef:1"]

    assert died in (0, 9)
    asyncio.run(look())


async def test_an_image_is_gone_for_good_before_its_files_are(
    store: ContentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    image = await store.import_(chunks(ROOT), "reef", [])
    known: list[int] = []

    def look(path: Path, target: Path) -> None:
        # What a power cut leaves of the database at least: the file without its log.
        copy = tmp_path / f"{len(known)}.db"
        copy.write_bytes((root / "atoll.db").read_bytes())
        known.extend(Database(copy).query("SELECT count(*) FROM image")[0])
        rename(path, target)

    rename = Path.rename
    monkeypatch.setattr(Path, "rename", look)
    await store.remove(image.id)
    assert known == [0, 0, 0]
