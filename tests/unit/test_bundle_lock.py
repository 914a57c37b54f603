"""The lock that keeps a container's next VM from its disk while the last one has it."""

import asyncio
from pathlib import Path

import pytest

from atoll.errors import Conflict
from atoll.runtime.bundle_lock import bundle_lock


async def test_one_waits_for_the_other(tmp_path: Path) -> None:
    order: list[str] = []
    first_has_it, may_leave = asyncio.Event(), asyncio.Event()

    async def first() -> None:
        async with bundle_lock(tmp_path, 5):
            first_has_it.set()
            await may_leave.wait()
            order.append("first leaves")

    async def second() -> None:
        await first_has_it.wait()
        asyncio.get_running_loop().call_later(0.05, may_leave.set)
        async with bundle_lock(tmp_path, 5):
            order.append("second enters")

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(first())
        tasks.create_task(second())
    assert order == ["first leaves", "second enters"]


async def test_a_lock_that_is_kept_too_long_is_an_error_and_the_lock_stays_usable(tmp_path: Path) -> None:
    async with bundle_lock(tmp_path, 5):
        with pytest.raises(Conflict, match=r"has not ended within 0\.01 s"):
            async with bundle_lock(tmp_path, 0.01):
                pass
    async with bundle_lock(tmp_path, 5):
        pass
