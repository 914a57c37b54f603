"""A VM that is launched when its container is created: taken by the start, or ended when none comes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

import pytest
from doubles.runtime import MemoryLauncher

from atoll.engine.ahead import Ahead
from atoll.engine.record import ContainerRecord
from atoll.engine.services import Tasks
from atoll.errors import VmFailed
from atoll.model.container import ContainerConfig


def record(name: str) -> ContainerRecord:
    config = ContainerConfig(image="i", image_id="sha256:0", hostname=name)
    return ContainerRecord(id=name * 64, name=name, created_at=datetime.now(UTC), config=config)


A, B = record("a"), record("b")


@pytest.fixture
def launcher() -> MemoryLauncher:
    return MemoryLauncher()


@pytest.fixture
async def ahead(launcher: MemoryLauncher, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Ahead]:
    """One that waits for a start as long as the test lasts; nothing it began may be left."""
    monkeypatch.setattr("atoll.engine.ahead.KEPT_S", 1000.0)
    before = asyncio.all_tasks()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        yield Ahead(launcher, tasks)
        tasks.cancel_all()
    assert launcher.runtimes == {}
    assert {task.get_name() for task in asyncio.all_tasks() - before if "ahead" in task.get_name()} == set()


@pytest.fixture
def nobody_waits(monkeypatch: pytest.MonkeyPatch, ahead: Ahead) -> None:
    """A launch whose start is not there yet is not wanted."""
    monkeypatch.setattr("atoll.engine.ahead.KEPT_S", 0.0)


async def until(is_so: Callable[[], object]) -> None:
    """The others have their turns."""
    while not is_so():  # noqa: ASYNC110 - nobody could tell
        await asyncio.sleep(0)


def finish(launcher: MemoryLauncher) -> None:
    for runtime in list(launcher.runtimes.values()):
        runtime.end(0)


async def test_what_was_launched_ahead_is_the_starts(ahead: Ahead, launcher: MemoryLauncher) -> None:
    ahead.begin(A)
    await launcher.has_launched(1)
    assert await ahead.take(A.id) is launcher.runtimes[A.id]
    assert launcher.reports == []  # that is for the start to say
    finish(launcher)


async def test_a_start_waits_for_the_launch_that_is_under_way(ahead: Ahead, launcher: MemoryLauncher) -> None:
    launcher.may_launch.clear()
    ahead.begin(A)
    taking = asyncio.ensure_future(ahead.take(A.id))
    await asyncio.sleep(0)
    assert not taking.done()
    launcher.may_launch.set()
    assert await taking is launcher.runtimes[A.id]
    assert launcher.launches == 1
    finish(launcher)


async def test_it_is_taken_once(ahead: Ahead, launcher: MemoryLauncher) -> None:
    ahead.begin(A)
    assert await ahead.take(A.id) is not None
    await asyncio.sleep(0)
    assert await ahead.take(A.id) is None
    finish(launcher)


async def test_nobody_else_takes_it(ahead: Ahead, launcher: MemoryLauncher) -> None:
    assert await ahead.take(A.id) is None
    ahead.begin(A)
    assert await ahead.take(B.id) is None
    assert await ahead.take(A.id) is not None
    finish(launcher)


async def test_only_one_is_launched_ahead(ahead: Ahead, launcher: MemoryLauncher) -> None:
    ahead.begin(A)
    ahead.begin(B)
    assert await ahead.take(A.id) is not None
    assert await ahead.take(B.id) is None
    assert launcher.launches == 1
    await asyncio.sleep(0)
    ahead.begin(B)  # the first is out of the way
    assert await ahead.take(B.id) is not None
    finish(launcher)


async def test_a_launch_that_fails_is_no_error_and_the_start_tries_itself(
    ahead: Ahead, launcher: MemoryLauncher
) -> None:
    launcher.launch_error = VmFailed("no VM today")
    ahead.begin(A)
    assert await ahead.take(A.id) is None
    launcher.launch_error = None
    await asyncio.sleep(0)
    ahead.begin(B)
    assert await ahead.take(B.id) is not None
    finish(launcher)


@pytest.mark.usefixtures("nobody_waits")
async def test_a_vm_that_is_not_wanted_in_time_is_ended(ahead: Ahead, launcher: MemoryLauncher) -> None:
    ahead.begin(A)
    await launcher.has_launched(1)
    await until(lambda: launcher.reports)
    assert launcher.runtimes == {}
    assert launcher.cleaned_up == [A.id]
    assert launcher.reports == [None]
    assert await ahead.take(A.id) is None
    ahead.begin(B)  # the next has its turn
    await launcher.has_launched(2)
    await ahead.forget(B.id)


@pytest.mark.usefixtures("nobody_waits")
async def test_a_start_that_comes_while_the_vm_ends_waits_and_then_launches_itself(
    ahead: Ahead, launcher: MemoryLauncher
) -> None:
    launcher.may_go.clear()
    ahead.begin(A)
    await launcher.has_launched(1)
    await until(lambda: not launcher.runtimes)  # it was killed, and is not gone
    taking = asyncio.ensure_future(ahead.take(A.id))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not taking.done()
    assert launcher.cleaned_up == []
    launcher.may_go.set()
    assert await taking is None
    assert launcher.cleaned_up == [A.id]


async def test_what_belongs_to_a_removed_container_is_gone_when_it_is_forgotten(
    ahead: Ahead, launcher: MemoryLauncher
) -> None:
    ahead.begin(A)
    await launcher.has_launched(1)
    await ahead.forget(B.id)
    assert set(launcher.runtimes) == {A.id}
    await ahead.forget(A.id)
    assert launcher.runtimes == {}
    assert launcher.cleaned_up == [A.id]
    await ahead.forget(A.id)


async def test_a_container_that_is_removed_while_its_vm_is_launched_leaves_none(
    ahead: Ahead, launcher: MemoryLauncher
) -> None:
    launcher.may_launch.clear()
    ahead.begin(A)
    forgetting = asyncio.ensure_future(ahead.forget(A.id))
    await asyncio.sleep(0)
    launcher.may_launch.set()
    await forgetting
    assert launcher.launches == 1
    assert launcher.runtimes == {}


async def test_a_start_that_is_cancelled_leaves_the_launch_to_the_next(ahead: Ahead, launcher: MemoryLauncher) -> None:
    launcher.may_launch.clear()
    ahead.begin(A)
    first = asyncio.ensure_future(ahead.take(A.id))
    second = asyncio.ensure_future(ahead.take(A.id))
    await asyncio.sleep(0)
    first.cancel()
    launcher.may_launch.set()
    assert await second is launcher.runtimes[A.id]
    finish(launcher)


async def test_an_engine_that_ends_ends_what_nobody_has_started(launcher: MemoryLauncher) -> None:
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        tasks = Tasks(group)
        ahead = Ahead(launcher, tasks)
        ahead.begin(A)
        await launcher.has_launched(1)
        await asyncio.sleep(0)
        tasks.cancel_all()
    assert launcher.runtimes == {}
    assert launcher.cleaned_up == [A.id]
