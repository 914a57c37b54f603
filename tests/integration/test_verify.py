"""`--verify`: what a container reads of its image is what it was when the container was created, or an error."""

import os
import random
import tarfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from harness.archives import file, image_archive, tar
from harness.container import Container
from harness.engine import EngineUnderTest
from harness.images import busybox_root
from harness.starts import start_kind, wait_for_pool

EngineWith = Callable[[str], EngineUnderTest]

MIB = 1 << 20
SECRET = random.Random(5).randbytes(4 * MIB)
"""Content of a file that is found in the layer, which is not compressed."""
AT = 2 * MIB


@pytest.fixture
def image(private_engine: EngineUnderTest) -> str:
    """An image with two files to read, on an engine of its own."""
    buffer = BytesIO(busybox_root())
    with tarfile.open(fileobj=buffer, mode="a") as tar:
        for name, content in (("secret", SECRET), ("other", b"as it was\n")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))
    private_engine.atoll.ok("image", "import", "--change", "ENV PATH=/bin", "-", "sealed", input=buffer.getvalue())
    return "sealed"


def _files(engine: EngineUnderTest, kind: str) -> list[Path]:
    return sorted((engine.root / "content").rglob(f"*.{kind}"))


def _flip(file: Path, at: int) -> None:
    """Change one bit of a file."""
    with file.open("r+b") as opened:
        (byte,) = os.pread(opened.fileno(), 1, at)
        os.pwrite(opened.fileno(), bytes([byte ^ 1]), at)


def _tamper(engine: EngineUnderTest) -> None:
    """Change a bit in the middle of the secret."""
    for layer in _files(engine, "squashfs"):
        if (start := layer.read_bytes().find(SECRET)) >= 0:
            _flip(layer, start + AT)
            return
    raise AssertionError("no layer holds the secret")


def test_a_changed_layer_is_an_io_error_with_verify_and_silent_without(
    private_engine: EngineUnderTest, image: str
) -> None:
    atoll = private_engine.atoll
    assert atoll("run", "--rm", "--verify", image, "cat", "/secret").out == SECRET
    running = Container(atoll.ok("run", "-d", "--verify", image, "sleep", "100000"), private_engine)
    _tamper(private_engine)
    # Of a container that runs, and of one that starts.
    for read in (
        running.exec("cat", "/secret"),
        atoll("run", "--rm", "--verify", image, "cat", "/secret"),
    ):
        assert read.code == 1
        assert "Input/output error" in read.stderr
        assert SECRET.startswith(read.out)
    assert running.exec("cat", "/other").stdout == "as it was\n"
    silent = atoll("run", "--rm", image, "cat", "/secret")
    assert (silent.code, len(silent.out), silent.out == SECRET) == (0, len(SECRET), False)
    assert running.inspect()["HostConfig"]["Atoll"]["Verify"] is True


def test_neither_a_changed_hash_tree_nor_a_new_one_helps_who_changes_a_layer(
    private_engine: EngineUnderTest, image: str
) -> None:
    atoll = private_engine.atoll
    container = Container(atoll.ok("create", "--verify", image, "cat", "/secret"), private_engine)
    (tree,) = _files(private_engine, "verity")
    tree.write_bytes(bytes(tree.stat().st_size))
    # A VM that was launched ahead may have the changed one already.
    first = atoll("start", "-a", container.id)
    assert first.out == SECRET or "input/output error" in first.stderr
    # What can be made again is; it must have the root that is known.
    assert atoll("start", "-a", container.id).out == SECRET
    _tamper(private_engine)
    tree.unlink()
    refused = atoll("start", "-a", container.id)
    assert refused.code == 1
    assert "was changed on disk" in refused.stderr


def test_a_layer_whose_head_is_changed_does_not_start(private_engine: EngineUnderTest, image: str) -> None:
    container = private_engine.atoll.ok("create", "--verify", image, "true")
    for layer in _files(private_engine, "squashfs"):
        _flip(layer, 8)
    refused = private_engine.atoll("start", container)
    assert refused.code == 1
    assert "squashfs" in refused.stderr


def test_the_setting_verifies_every_container_however_it_starts(engine_with: EngineWith) -> None:
    for settings, kind in (("templates = false\n", "cold"), ("pool_size = 0\n", "clone"), ("pool_size = 1\n", "pool")):
        engine = engine_with(f"verify_images = true\n{settings}")
        if kind != "cold":
            engine.atoll.ok("system", "template", "build")
        if kind == "pool":
            wait_for_pool(engine)
        assert start_kind(engine, "busybox", "true") == kind
        container = Container(engine.atoll.ok("run", "-d", "busybox", "sleep", "100000"), engine)
        assert container.inspect()["HostConfig"]["Atoll"]["Verify"] is True
        assert _files(engine, "verity")


def test_images_of_several_layers_and_read_only_volumes_beside_them_are_verified(
    private_engine: EngineUnderTest,
) -> None:
    atoll = private_engine.atoll
    layers = [busybox_root(), *(tar([file(f"layer{number}", b"%d\n" % number)]) for number in range(1, 5))]
    atoll.ok("image", "load", input=image_archive(layers, "layered:latest"))
    atoll.ok("run", "--rm", "-v", "reef:/reef", "busybox", "sh", "-c", "echo coral > /reef/file")
    look = ("sh", "-c", "cat /layer1 /layer4 /reef/file; echo new > /layer2; cat /layer2")
    assert atoll.ok("run", "--rm", "--verify", "-v", "reef:/reef:ro", "layered", *look) == "1\n4\ncoral\nnew"
