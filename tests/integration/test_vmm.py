"""Machines as the runtime gets them: they boot to their agent, obey, and leave nothing behind."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from harness.kernel import UnpackedKernel

from atoll.channel import Connection
from atoll.errors import VmFailed
from atoll.kernel import Kernel, KernelStore, agent_path
from atoll.model.agent import Hello
from atoll.runtime.vm import Console
from atoll.vmm import DiskSource, Machine, MachineSpec, QemuMonitor, probe

BOOT_S = 60.0
UNPRIVILEGED = 2_000_000_123
AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def booted(kernel: UnpackedKernel, tmp_path_factory: pytest.TempPathFactory) -> Kernel:
    """A kernel in a store of its own, with its initramfs."""
    store = KernelStore(tmp_path_factory.mktemp("kernels"), agent_path())

    async def set_and_make() -> Kernel:
        await store.set_binary(kernel.image, kernel.modules)
        return await store.current()

    return asyncio.run(set_and_make())


@pytest.fixture
def spec(booted: Kernel, tmp_path: Path) -> MachineSpec:
    """A machine with an image of two extents and a writable disk, under a user of its own where we may choose."""
    disks = tmp_path / "private"
    disks.mkdir(mode=0o700)
    for name in ("lower", "upper", "writable"):
        (disks / name).write_bytes(bytes(1 << 20))
    extents = [f'RW 2048 FLAT "/dev/fdset/{number}" 0' for number in (100, 101)]
    lines = ["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff", 'createType="monolithicFlat"']
    (disks / "image.vmdk").write_text("\n".join([*lines, "# Extent description", *extents, ""]))
    files = {100: disks / "lower", 101: disks / "upper"}
    return MachineSpec(
        kernel=booted.image,
        initramfs=booted.initramfs,
        cpus=2,
        memory_mib=256,
        accelerator="tcg",
        image=DiskSource(disks / "image.vmdk", "vmdk", files),
        writable=disks / "writable",
        uid=UNPRIVILEGED if AS_ROOT else None,
    )


async def _hello(machine: Machine) -> Hello:
    connection = Connection(machine.agent, "the agent", lambda *_: None)
    connection.open()
    try:
        return await connection.hello(BOOT_S)
    finally:
        connection.close("the test has heard enough")


async def test_a_machine_boots_to_its_agent(spec: MachineSpec, booted: Kernel) -> None:
    async with QemuMonitor().create(spec) as machine:
        await machine.start()
        hello = await _hello(machine)
        assert (hello.protocol, hello.kernel) == (1, booted.version)
        assert machine.complaints == ""


async def test_qemu_has_no_rights_and_opens_no_file_of_its_own(spec: MachineSpec) -> None:
    async with QemuMonitor().create(spec) as machine:
        status = _status(machine.pid)
        assert status["Uid"].split() == status["Gid"].split() == [str(UNPRIVILEGED)] * 4
        assert (status["CapBnd"], status["NoNewPrivs"], status["Seccomp"]) == ("0" * 16, "1", "2")
        assert status["Groups"] == ""


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


async def test_a_machine_obeys_and_ends_when_told_to(spec: MachineSpec) -> None:
    async with QemuMonitor().create(spec) as machine:
        await machine.start()
        await machine.pause()
        await machine.resume()
        await machine.quit()
        assert await machine.wait() == 0
        with pytest.raises(VmFailed, match="QEMU did not carry out 'stop'"):
            await machine.pause()


async def test_a_killed_machine_says_by_what_signal(spec: MachineSpec) -> None:
    async with QemuMonitor().create(spec) as machine:
        await machine.start()
        os.kill(machine.pid, 9)
        assert await machine.wait() == -9
        await machine.quit()


async def test_a_machine_that_hangs_is_ended_by_force(spec: MachineSpec) -> None:
    async with QemuMonitor().create(spec) as machine:
        os.kill(machine.pid, 19)
        await machine.quit(deadline_s=0.1)
        assert await machine.wait() == -9


async def test_nothing_is_left_when_the_context_ends(spec: MachineSpec) -> None:
    before = _open_descriptors()
    with pytest.raises(ZeroDivisionError):
        await _fail_inside(spec)
    assert _open_descriptors() == before


async def _fail_inside(spec: MachineSpec) -> None:
    async with _gone_afterwards(spec) as machine:
        await machine.start()
        raise ZeroDivisionError


@asynccontextmanager
async def _gone_afterwards(spec: MachineSpec) -> AsyncIterator[Machine]:
    try:
        async with QemuMonitor().create(spec) as machine:
            pid = machine.pid
            yield machine
    finally:
        assert not _is_there(pid)


async def test_a_cancelled_machine_leaves_nothing(spec: MachineSpec) -> None:
    before = _open_descriptors()
    started = asyncio.Event()

    async def run() -> None:
        async with _gone_afterwards(spec) as machine:
            await machine.start()
            started.set()
            await machine.wait()

    task = asyncio.create_task(run())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert _open_descriptors() == before


async def test_a_kernel_that_is_none_is_qemus_complaint(spec: MachineSpec, tmp_path: Path) -> None:
    before = _open_descriptors()
    kernel = await asyncio.to_thread(_text_file, tmp_path / "kernel")
    with pytest.raises(VmFailed, match=r"QEMU did not come up: it ended with status 1 \(.*kernel"):
        async with QemuMonitor().create(replace(spec, kernel=kernel)):
            pass
    assert _open_descriptors() == before


async def test_a_writable_disk_serves_one_machine_only(spec: MachineSpec) -> None:
    async with QemuMonitor().create(spec):
        with pytest.raises(VmFailed, match='Failed to get "write" lock'):
            async with QemuMonitor().create(spec):
                pass
        async with QemuMonitor().create(replace(spec, writable=None)):
            pass


async def test_a_bzimage_boots_where_its_kernel_cannot_be_taken_out(spec: MachineSpec, kernel: UnpackedKernel) -> None:
    async with QemuMonitor().create(replace(spec, kernel=kernel.image)) as machine:
        await machine.start()
        assert (await _hello(machine)).kernel == kernel.version


async def test_the_kernels_last_words_are_on_the_console(spec: MachineSpec) -> None:
    async with QemuMonitor().create(replace(spec, kernel_parameters=("rdinit=/nowhere",))) as machine:
        console = Console(machine.console)  # read all the time: one that is not stops the guest after 278 bytes
        async with console.reading(), asyncio.timeout(BOOT_S):
            await machine.start()
            assert await machine.wait() == 0
        assert console.panic == "VFS: Unable to mount root fs on unknown-block(0,0)"


async def test_the_probe_finds_an_accelerator_in_time_and_keeps_it(
    spec: MachineSpec, booted: Kernel, tmp_path: Path
) -> None:
    cache = tmp_path / "accelerator.json"
    async with asyncio.timeout(30):
        found = await probe(QemuMonitor(), spec, kernel_digest=booted.digest, cache=cache)
    assert found.reason
    boots = replace(spec, accelerator=found.name)
    async with QemuMonitor().create(boots) as machine:
        await machine.start()
        await _hello(machine)
    again = await probe(QemuMonitor(), replace(spec, qemu=spec.qemu), kernel_digest=booted.digest, cache=cache)
    assert again == found


def _text_file(path: Path) -> Path:
    path.write_text("this is no kernel\n" * 1000)
    return path


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def _is_there(pid: int) -> bool:
    return subprocess.run(["kill", "-0", str(pid)], check=False, capture_output=True).returncode == 0
