"""The writable layer as the host pays for it: given back when it is deleted, bounded by a quota, short of space."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness.container import Container
from harness.disks import small_disk
from harness.engine import EngineUnderTest, engine_at
from harness.kernel import UnpackedKernel
from harness.starts import start_kind, wait_for_pool

EngineWith = Callable[[str], EngineUnderTest]
StartContainer = Callable[..., Container]

MIB = 1 << 20
GIVEN_BACK_S = 60.0
SETTINGS = {"cold": "templates = false\n", "clone": "pool_size = 0\n", "pool": "pool_size = 1\n"}
"""By how they make a container start."""


def _disk(container: Container) -> Path:
    """The host's file of a container's writable layer."""
    return container.engine.root / "containers" / container.id / "writable.img"


def _allocated_bytes(container: Container) -> int:
    return _disk(container).stat().st_blocks * 512


def _run(container: Container, script: str) -> None:
    done = container.exec("sh", "-c", script)
    assert done.code == 0, str(done)


def _wait_until_at_most(limit_bytes: int, container: Container) -> None:
    deadline = time.monotonic() + GIVEN_BACK_S
    while (allocated := _allocated_bytes(container)) > limit_bytes:
        assert time.monotonic() < deadline, f"the host's file still has {allocated} bytes"
        time.sleep(0.1)


@pytest.mark.parametrize("kind", SETTINGS)
def test_what_a_container_deletes_the_host_gets_back(engine_with: EngineWith, kind: str) -> None:
    engine = engine_with(SETTINGS[kind])
    if kind != "cold":
        engine.atoll.ok("system", "template", "build")
    if kind == "pool":
        wait_for_pool(engine)
    assert start_kind(engine, "busybox", "true") == kind
    if kind == "pool":
        wait_for_pool(engine)
    container = Container(engine.atoll.ok("run", "-d", "busybox", "sleep", "100000"), engine)
    write, delete = "dd if=/dev/zero of=/root/big bs=1M count=64 && sync", "rm /root/big && sync"
    before = _allocated_bytes(container)
    _run(container, write)
    assert _allocated_bytes(container) >= before + 64 * MIB
    _run(container, delete)
    _wait_until_at_most(before + 16 * MIB, container)
    # Once more, deleted by a later start than that which wrote it.
    _run(container, write)
    container.stop()
    container.start()
    assert _allocated_bytes(container) >= before + 64 * MIB
    _run(container, delete)
    _wait_until_at_most(before + 16 * MIB, container)


def test_a_container_that_fills_its_disk_harms_nobody_else(start_container: StartContainer) -> None:
    neighbour = start_container("busybox", "sleep", "100000")
    container = start_container("--disk", "64m", "busybox", "sleep", "100000")
    filled = container.exec("dd", "if=/dev/zero", "of=/root/big", "bs=1M")
    assert filled.code == 1
    assert "No space left on device" in filled.stderr
    _run(container, "sync")
    assert _disk(container).stat().st_size == 64 * MIB
    assert _allocated_bytes(container) <= 65 * MIB
    _run(neighbour, "dd if=/dev/zero of=/root/big bs=1M count=80 && sync")
    assert start_container("busybox", "sleep", "100000").status == "running"
    _run(container, "rm /root/big && echo hello > /root/small && sync")
    assert container.exec("cat", "/root/small").stdout == "hello\n"


def test_a_full_host_is_an_error_in_the_container_that_writes_and_room_can_be_made(
    empty_engine: EngineUnderTest, kernel: UnpackedKernel, busybox_tar: Path
) -> None:
    with small_disk(empty_engine.root, kib=160 << 10) as disk, _engine_on(disk, kernel, busybox_tar) as engine:
        neighbour, container = (
            Container(engine.atoll.ok("run", "-d", "busybox", "sleep", "100000"), engine) for _ in range(2)
        )
        _run(neighbour, "echo hello > /root/greeting && sync")
        # Once the file system has given up, its kernel may have a writer wait for memory that nothing will clean.
        fill = ("dd", "if=/dev/zero", "of=/root/big", "bs=1M", "count=300", "conv=fsync")
        assert container.exec("timeout", "-s", "KILL", "30", *fill).code in (1, 137)
        # All that need no space go on.
        assert neighbour.exec("cat", "/root/greeting").stdout == "hello\n"
        assert container.exec("echo", "still here").stdout == "still here\n"
        assert (neighbour.status, container.status) == ("running", "running")
        container.stop()
        engine.atoll.ok("rm", "-f", neighbour.id)
        # The journal brings the disk back to what it was when the host's space ended.
        container.start()
        _run(container, "rm -f /root/big && echo more > /root/more && sync")
        container.stop()
        check = subprocess.run(["e2fsck", "-fn", _disk(container)], capture_output=True, text=True, check=False)
        assert check.returncode == 0, check.stdout
        engine.atoll.ok("rm", container.id)


@contextmanager
def _engine_on(disk: Path, kernel: UnpackedKernel, busybox_tar: Path) -> Iterator[EngineUnderTest]:
    """An engine whose root is on a file system of its own."""
    (disk / "atoll.toml").write_text("templates = false\n")
    engine = engine_at(disk)
    engine.start()
    try:
        engine.atoll.ok("system", "kernel", "set", "--binary", kernel.image, "--modules", kernel.modules)
        engine.atoll.ok("image", "import", busybox_tar, "busybox")
        yield engine
    finally:
        engine.atoll("system", "stop", "--containers", "--timeout", "0")
        for process in engine.processes():
            process.wait()
