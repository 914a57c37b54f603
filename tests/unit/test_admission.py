"""Who may start now, who waits, and who is told that the host's memory does not suffice."""

import asyncio
from collections.abc import Callable
from contextlib import suppress

import pytest

from atoll.engine import admission as admission_module
from atoll.engine.admission import Admission, available_mib
from atoll.engine.status import host_cpus, host_memory_bytes
from atoll.errors import OutOfMemory
from atoll.settings import Settings

MIB = 1 << 20
MakeAdmission = Callable[..., Admission]


@pytest.fixture
def make_admission(monkeypatch: pytest.MonkeyPatch) -> MakeAdmission:
    """On a host with 1000 MiB of memory."""

    def make(*, promised_mib: int | Callable[[], int] = 0, available_mib: int = 1000, **settings: float) -> Admission:
        monkeypatch.setattr(admission_module, "host_memory_bytes", lambda: 1000 * MIB)
        monkeypatch.setattr(admission_module, "available_mib", lambda: available_mib)
        promised = promised_mib if callable(promised_mib) else lambda: promised_mib
        return Admission(Settings(**settings), promised)  # type: ignore[arg-type]  # each test names real fields

    return make


class Starts:
    """Starts that last until the test ends them, and the order in which they were let in."""

    def __init__(self, admission: Admission, tasks: asyncio.TaskGroup) -> None:
        self.admission = admission
        self.let_in: list[int] = []
        self._tasks = tasks
        self._ends: dict[int, asyncio.Event] = {}
        self._running: dict[int, asyncio.Task[None]] = {}

    async def begin(self, number: int) -> None:
        self._ends[number] = asyncio.Event()
        self._running[number] = self._tasks.create_task(self._start(number))
        await turns()

    async def end(self, number: int) -> None:
        self._ends[number].set()
        await self._running[number]
        await turns()

    async def cancel(self, number: int) -> None:
        self._running[number].cancel()
        await turns()

    async def _start(self, number: int) -> None:
        async with self.admission.start(str(number), 128):
            self.let_in.append(number)
            await self._ends[number].wait()


async def turns() -> None:
    """Whoever can go on does."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_starts_beyond_the_limit_wait_in_the_order_of_their_coming(make_admission: MakeAdmission) -> None:
    async with asyncio.TaskGroup() as tasks:
        starts = Starts(make_admission(starts_at_once=2), tasks)
        for number in range(6):
            await starts.begin(number)
        assert starts.let_in == [0, 1]
        for ended, let_in in ((1, 2), (0, 3), (3, 4), (2, 5)):
            await starts.end(ended)
            assert starts.let_in[-1] == let_in
        for number in (4, 5):
            await starts.end(number)
    assert starts.let_in == list(range(6))


async def test_a_start_that_gives_up_while_it_waits_keeps_nobody_out(make_admission: MakeAdmission) -> None:
    async with asyncio.TaskGroup() as tasks:
        starts = Starts(make_admission(starts_at_once=1), tasks)
        for number in range(4):
            await starts.begin(number)
        await starts.cancel(1)
        await starts.cancel(0)  # one that was let in
        assert starts.let_in == [0, 2]
        await starts.end(2)
        await starts.end(3)
        assert starts.admission.has_leisure


async def test_a_start_that_fails_makes_room(make_admission: MakeAdmission) -> None:
    admission = make_admission(starts_at_once=1)
    for _ in range(3):
        with suppress(ZeroDivisionError):
            async with admission.start("reef", 128):
                raise ZeroDivisionError
    assert admission.has_leisure


async def test_without_a_setting_two_start_for_each_cpu(make_admission: MakeAdmission) -> None:
    async with asyncio.TaskGroup() as tasks:
        starts = Starts(make_admission(), tasks)
        for number in range(2 * host_cpus() + 1):
            await starts.begin(number)
        assert len(starts.let_in) == 2 * host_cpus()
        for number in range(2 * host_cpus() + 1):
            await starts.end(number)


async def test_more_than_may_be_promised_is_refused_with_the_setting_that_says_so(
    make_admission: MakeAdmission,
) -> None:
    admission = make_admission(promised_mib=2001, memory_overcommit=2.0)
    with pytest.raises(OutOfMemory) as refused:
        async with admission.start("reef", 300):
            pytest.fail("it was let in")
    assert str(refused.value) == (
        "cannot start container reef: it may use 300 MiB, and 1701 of the 2000 MiB that containers may be promised "
        "are taken: stop some, give it less with --memory, or raise the setting 'memory_overcommit'"
    )
    assert admission.has_leisure


async def test_all_that_may_be_promised_is_promised(make_admission: MakeAdmission) -> None:
    async with make_admission(promised_mib=2000, memory_overcommit=2.0).start("reef", 300):
        pass


async def test_the_hosts_reserve_is_not_given_away(make_admission: MakeAdmission) -> None:
    admission = make_admission(available_mib=575, memory_reserve_mib=512)
    with pytest.raises(OutOfMemory, match=r"only 575 MiB of memory available, and 512 .* 'memory_reserve_mib'"):
        async with admission.start("reef", 300):
            pytest.fail("it was let in")
    async with make_admission(available_mib=576, memory_reserve_mib=512).start("reef", 300):
        pass


async def test_a_refused_start_does_not_wait_behind_others(make_admission: MakeAdmission) -> None:
    promised_mib = iter([128, 1 << 30])
    admission = make_admission(starts_at_once=1, promised_mib=lambda: next(promised_mib))
    async with admission.start("one", 128), asyncio.timeout(5):
        with pytest.raises(OutOfMemory):
            async with admission.start("two", 128):
                pytest.fail("it was let in")
        assert not admission.has_leisure


async def test_it_is_quiet_when_nobody_starts_or_waits(make_admission: MakeAdmission) -> None:
    async with asyncio.TaskGroup() as tasks:
        starts = Starts(make_admission(starts_at_once=1), tasks)
        await starts.admission.quiet()
        await starts.begin(0)
        await starts.begin(1)
        quiet = tasks.create_task(starts.admission.quiet())
        await starts.end(0)
        assert not starts.admission.has_leisure
        assert not quiet.done()
        await starts.end(1)
        assert starts.admission.has_leisure
        assert quiet.done()


@pytest.mark.parametrize(("available_mib", "has_leisure"), [(575, False), (576, True)])
def test_there_is_no_leisure_where_one_more_vm_would_take_of_the_reserve(
    make_admission: MakeAdmission, available_mib: int, has_leisure: bool
) -> None:
    assert make_admission(available_mib=available_mib, memory_reserve_mib=512).has_leisure is has_leisure


@pytest.mark.parametrize(("wanted_mib", "has_room"), [(0, True), (488, True), (489, False)])
def test_there_is_room_for_what_is_available_beside_the_reserve(
    make_admission: MakeAdmission, wanted_mib: int, has_room: bool
) -> None:
    assert make_admission(memory_reserve_mib=512).has_room(wanted_mib) is has_room


def test_what_is_available_is_part_of_what_there_is() -> None:
    assert 0 < available_mib() <= host_memory_bytes() // MIB


async def test_a_start_that_has_waited_is_refused_when_the_memory_is_gone_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admission = Admission(Settings(starts_at_once=1), lambda: 0)
    monkeypatch.setattr("atoll.engine.admission.available_mib", lambda: 10_000)
    async with admission.start("one", 128):
        second = asyncio.create_task(admission.start("two", 128).__aenter__())
        await asyncio.sleep(0)
        monkeypatch.setattr("atoll.engine.admission.available_mib", lambda: 520)
    with pytest.raises(OutOfMemory, match="memory_reserve_mib"):
        await second
    assert admission.has_leisure is False  # for want of memory, not of a place
    monkeypatch.setattr("atoll.engine.admission.available_mib", lambda: 10_000)
    async with admission.start("three", 128):
        pass
