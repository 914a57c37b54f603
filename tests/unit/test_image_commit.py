"""Images made of other images and a layer above them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from harness.archives import file, tar

from atoll.errors import InvalidRequest, VmFailed
from atoll.image import Commit, ContentStore, Execution, merged_execution
from atoll.store.database import Database


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def store_in(root: Path) -> ContentStore:
    return ContentStore(root / "content", Database(root / "atoll.db"))


def test_what_was_asked_for_wins_and_the_rest_is_the_containers() -> None:
    container = Execution(
        user="sailor", env=("A=1", "B=2"), cmd=("run",), entrypoint=("/init",), labels={"x": "1"}, working_dir="/w"
    )
    assert merged_execution(Execution(), container) == container
    asked = Execution(env=("B=3",), cmd=("other",), labels={"y": "2"})
    merged = merged_execution(asked, container)
    assert merged.env == ("B=3", "A=1")
    assert (merged.entrypoint, merged.cmd) == (("/init",), ("other",))
    assert merged.labels == {"x": "1", "y": "2"}
    assert merged_execution(Execution(entrypoint=("sh",)), container).cmd is None


async def test_a_commit_is_one_layer_and_one_step_more(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    parent = await store.import_(chunks(tar([file("a")])), "base:1")
    commit = Commit(Execution(cmd=("sh",)), created_by="sh", author="me", comment="why", changes=("ENV A=1",))
    image = await store.commit(parent.id, chunks(tar([file("b")])), "child:1", commit)
    assert [layer.diff_id for layer in image.layers][:1] == [layer.diff_id for layer in parent.layers]
    assert len(image.layers) == 2
    assert image.repo_tags == ("child:1",)
    assert image.config.execution.env == ("A=1",)
    step = (image.config.history or ())[-1]
    assert (image.config.author, step.author, step.comment, step.created_by) == ("me", "me", "why", "sh")
    assert (await store.get("child:1")).id == image.id


async def test_a_layer_with_nothing_in_it_is_none(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    parent = await store.import_(chunks(tar([file("a")])), None)
    image = await store.commit(parent.id, chunks(tar([])), None, Commit(Execution()))
    assert image.layers == parent.layers
    assert (image.config.history or ())[-1].empty_layer
    blobs = tmp_path / "content" / "blobs" / "sha256"
    assert len(list(blobs.iterdir())) == 3  # two configurations, one layer


async def test_a_commit_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    parent = await store.import_(chunks(tar([file("a")])), None)
    before = sorted(path for path in (tmp_path / "content").rglob("*") if path.is_file())

    async def broken() -> AsyncIterator[bytes]:
        yield tar([file("b", bytes(100_000))])[:50_000]
        raise VmFailed("the guest is gone")

    with pytest.raises(VmFailed, match="the guest is gone"):
        await store.commit(parent.id, broken(), "half", Commit(Execution()))
    with pytest.raises(InvalidRequest, match="not a valid change command"):
        await store.commit(parent.id, chunks(tar([])), None, Commit(Execution(), changes=("FROM scratch",)))
    assert sorted(path for path in (tmp_path / "content").rglob("*") if path.is_file()) == before
    assert [image.id for image in await store.list()] == [parent.id]
