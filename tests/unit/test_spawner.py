"""The zygote, for real: a process that forks processes. Their bundles are too broken for a VM to be needed."""

import asyncio
import errno
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from atoll.errors import VmFailed
from atoll.runtime.spawner import Spawner
from atoll.vmm import SavedMachine


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def zygotes() -> list[int]:
    return [
        pid
        for pid in children(os.getpid())
        if b"atoll.runtime.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]


async def test_a_runtime_that_cannot_read_its_bundle_says_why(tmp_path: Path) -> None:
    async with Spawner() as spawner:
        with pytest.raises(VmFailed, match="No such file"):
            await spawner.spawn(tmp_path / "config.json")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(VmFailed, match="missing required field"):
            await spawner.spawn(tmp_path / "config.json")


async def test_many_are_answered_each_its_own(tmp_path: Path) -> None:
    async with Spawner() as spawner, asyncio.TaskGroup() as tasks:

        async def refused(name: str) -> None:
            with pytest.raises(VmFailed, match=name):
                await spawner.spawn(tmp_path / name)

        for number in range(10):
            tasks.create_task(refused(f"bundle-{number}"))


async def test_a_zygote_that_was_killed_is_started_again(tmp_path: Path) -> None:
    async with Spawner() as spawner:
        with pytest.raises(VmFailed, match="No such file"):
            await spawner.spawn(tmp_path / "config.json")
        (zygote,) = zygotes()
        os.kill(zygote, signal.SIGKILL)
        while True:  # the first attempt may still meet the old one's end
            with pytest.raises(VmFailed) as refused:
                await spawner.spawn(tmp_path / "config.json")
            if "No such file" in str(refused.value):
                break
            await asyncio.sleep(0)
        assert zygotes() != [zygote]


async def test_the_zygote_ends_with_its_engine(tmp_path: Path) -> None:
    async with Spawner():
        assert len(zygotes()) == 1
    assert zygotes() == []


@pytest.fixture
def template() -> Iterator[SavedMachine]:
    memory, state = os.memfd_create("memory"), os.memfd_create("state")
    yield SavedMachine(memory, state)
    os.close(memory)
    os.close(state)


def template_files(pid: int) -> list[str]:
    opened = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            opened.append(str(link.readlink()))
    return [name for name in opened if name.startswith("/memfd:")]


@pytest.mark.parametrize("is_spare", [False, True])
async def test_a_templates_files_do_not_stay_with_the_zygote(
    tmp_path: Path, template: SavedMachine, is_spare: bool
) -> None:
    async with Spawner() as spawner:
        (tmp_path / "config.json").write_text("{}")
        for _ in range(5):
            with pytest.raises(VmFailed, match="missing required field"):
                await spawner.spawn(tmp_path / "config.json", template, is_spare=is_spare)
        with pytest.raises(VmFailed, match="No such file"):  # once it is answered, those before it are let go
            await spawner.spawn(tmp_path / "nowhere")
        (zygote,) = zygotes()
        assert template_files(zygote) == []
    assert os.fstat(template.memory).st_size == 0  # ours are as they were


async def test_a_template_that_was_closed_too_early_is_an_error_and_the_next_start_works(tmp_path: Path) -> None:
    async with Spawner() as spawner:
        memory = os.memfd_create("memory")
        os.close(memory)
        with pytest.raises(VmFailed, match=os.strerror(errno.EBADF)):
            await spawner.spawn(tmp_path / "config.json", SavedMachine(memory, memory))
        with pytest.raises(VmFailed, match="No such file"):
            await spawner.spawn(tmp_path / "config.json")


async def test_a_runtime_that_does_not_come_up_in_time_is_not_waited_for(
    tmp_path: Path, template: SavedMachine
) -> None:
    config = tmp_path / "config.json"
    os.mkfifo(config)  # what reads it hangs
    async with Spawner() as spawner:
        with pytest.raises(VmFailed, match=r"did not come up within 0.01 s"):
            await spawner.spawn(config, template, is_spare=True, deadline_s=0.01)
        descriptor = await asyncio.to_thread(os.open, config, os.O_WRONLY)
        config.unlink()
        os.close(descriptor)  # its answer comes after all, and is nobody's any more
        with pytest.raises(VmFailed, match="No such file"):
            await spawner.spawn(tmp_path / "other.json")


async def test_a_runtime_is_not_started_twice_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    os.mkfifo(config)
    async with Spawner() as spawner, asyncio.TaskGroup() as tasks:

        async def refused() -> None:
            with pytest.raises(VmFailed, match="truncated"):
                await spawner.spawn(config)

        tasks.create_task(refused())
        await asyncio.sleep(0)
        with pytest.raises(VmFailed, match="is being started already"):
            await spawner.spawn(config)
        os.close(await asyncio.to_thread(os.open, config, os.O_WRONLY))


async def test_a_runtime_that_is_on_its_way_answers_although_its_zygote_was_killed(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    os.mkfifo(config)
    async with Spawner() as spawner, asyncio.TaskGroup() as tasks:

        async def refused() -> None:
            with pytest.raises(VmFailed, match="truncated"):
                await spawner.spawn(config)

        waiting = tasks.create_task(refused())
        descriptor = await asyncio.to_thread(os.open, config, os.O_WRONLY)  # once the runtime has opened it as well
        (zygote,) = zygotes()
        os.kill(zygote, signal.SIGKILL)
        os.close(descriptor)
        await waiting


async def test_a_runtime_that_is_killed_before_it_answers_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    os.mkfifo(config)
    async with Spawner() as spawner, asyncio.TaskGroup() as tasks:

        async def refused() -> None:
            with pytest.raises(VmFailed) as failure:
                await spawner.spawn(config, deadline_s=3)
            assert "did not come up within" not in str(failure.value)

        tasks.create_task(refused())
        descriptor = await asyncio.to_thread(os.open, config, os.O_WRONLY)
        (zygote,) = zygotes()
        (runtime,) = children(zygote)
        os.kill(runtime, signal.SIGKILL)
        os.close(descriptor)
