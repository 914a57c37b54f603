"""The zygote, for real: a process that forks processes. Their bundles are too broken for a VM to be needed."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from atoll.errors import VmFailed
from atoll.runtime.spawner import Spawner


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
