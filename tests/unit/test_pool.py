"""The pool's decisions: how many spares of which size, who gets one, and when they are ended."""

import asyncio
import logging
import os
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from doubles.pool import MemorySpare, MemorySpawner, MemoryStages, MemoryTemplates
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.engine import admission as admission_module
from atoll.engine import pool as pool_module
from atoll.engine.admission import Admission
from atoll.engine.pool import Pool
from atoll.engine.services import Tasks
from atoll.engine.sizing import VmSize
from atoll.errors import InvalidRequest, VmFailed
from atoll.kernel import Kernel
from atoll.model.container import VmSpec
from atoll.paths import Paths
from atoll.settings import Settings

USUAL = VmSize(cpus=2, memory_mib=1024)
SMALL, BIG = VmSize(cpus=1, memory_mib=256), VmSize(cpus=4, memory_mib=4096)
STARTS = 8  # so many are remembered


def vm_of(size: VmSize) -> VmSpec:
    return VmSpec(
        kernel="", initramfs="", accelerator="tcg", qemu="", cpus=size.cpus, memory_mib=size.memory_mib,
        boot_timeout_s=5, vm_uid=None, run_dir="",
    )  # fmt: skip


class World:
    """A pool, and all that it sees."""

    def __init__(self, root: Path, group: asyncio.TaskGroup, **changes: float) -> None:
        self.paths = Paths(root=root, run=root / "run", socket=root / "s", settings_file=root / "t")
        self.paths.run.mkdir(exist_ok=True)
        self.now_s = 1000.0
        self.available_mib = 1 << 20
        self.templates, self.spawner = MemoryTemplates(), MemorySpawner()
        options = Settings(**{"pool_idle_s": 60, **changes})  # type: ignore[arg-type]  # each test names real fields
        self.admission = Admission(options, lambda: 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool_module, "monotonic", lambda: self.now_s)
            self.pool = Pool(
                self.paths, options, self.templates, MemoryStages(), self.spawner, self.admission, Tasks(group),
                self._make_vm, USUAL,
            )  # type: ignore[arg-type]  # doubles  # fmt: skip

    async def _make_vm(self, size: VmSize) -> tuple[Kernel, VmSpec]:
        return Kernel("6.1", Path("/kernel"), Path("/initramfs"), ""), vm_of(size)

    async def refilled(self) -> None:
        """Until the pool is as it wants to be."""
        self.pool.refill()
        await self.settled()

    async def settled(self) -> None:
        refills = [task for task in asyncio.all_tasks() if task.get_name() == "refill of the pool"]
        if refills:
            await asyncio.wait(refills)

    async def claim(self, size: VmSize, name: str = "c") -> MemorySpare | None:
        key = self.templates.key(vm_of(size))
        return await self.pool.claim(size, key, self.paths.root / "config.json", self.paths.run / name)  # type: ignore[return-value]

    @property
    def sizes(self) -> Counter[VmSize]:
        """What is ready."""
        return Counter(VmSize(spare.spec.cpus, spare.spec.memory_mib) for spare in self.unclaimed)

    @property
    def unclaimed(self) -> list[MemorySpare]:
        return [spare for spare in self.spawner.alive if spare.claimed is None]

    @property
    def files(self) -> set[str]:
        """What is left of spares, as far as it is the pool's."""
        return {path.name for directory in (self.paths.spares, self.paths.run) for path in directory.iterdir()}


@asynccontextmanager
async def world(root: Path, **changes: float) -> AsyncIterator[World]:
    """At its end no spare runs, no file of one is left and no template is open."""
    with pytest.MonkeyPatch.context() as patch:
        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            made = World(root, group, **changes)
            patch.setattr(pool_module, "RuntimeClient", made.spawner)
            patch.setattr(pool_module, "monotonic", lambda: made.now_s)
            patch.setattr(admission_module, "available_mib", lambda: made.available_mib)
            yield made
            await made.pool.close()
    assert made.unclaimed == []
    assert made.templates.opened == set()
    claimed = {Path(spare.spec.run_dir).name for spare in made.spawner.alive}
    assert {name for name in made.files if name.startswith("spare-")} <= claimed
    assert all(spare.is_closed for spare in made.spawner.spares if not spare.is_connected)


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[World]:
    """A world with two spares wanted."""
    async with world(tmp_path, pool_size=2) as here:
        yield here


async def test_it_is_filled_with_what_is_usual_and_no_more(here: World) -> None:
    for _ in range(3):
        await here.refilled()
        assert here.pool.ready == 2
    assert here.sizes == {USUAL: 2}
    assert here.spawner.asked == 2
    assert here.templates.opened == set()
    assert len({spare.spec.name for spare in here.unclaimed}) == 2
    if os.geteuid() == 0:
        assert len({spare.spec.vm_uid for spare in here.unclaimed}) == 2
        assert all(spare.spec.vm_uid >= Settings().vm_uid_first + (1 << 20) for spare in here.unclaimed)  # type: ignore[operator]


async def test_a_pool_of_none_makes_none_and_asks_for_no_template(tmp_path: Path) -> None:
    async with world(tmp_path, pool_size=0) as here:
        await here.refilled()
        assert await here.claim(USUAL) is None
        await here.refilled()
        assert (here.pool.ready, here.spawner.asked, here.templates.found) == (0, 0, 0)


async def test_a_start_gets_a_spare_with_the_containers_name(here: World) -> None:
    await here.refilled()
    spare = await here.claim(USUAL, "reef")
    assert spare is not None
    assert spare.claimed == here.paths.root / "config.json"
    assert spare.is_connected
    assert (here.paths.run / "reef/runtime.sock").exists()
    assert here.pool.ready == 1
    await here.refilled()
    assert here.pool.ready == 2
    kept = {spare.spec.name[6:] for spare in here.unclaimed}
    async with asyncio.timeout(10):
        # What the claimed one had is removed in the background; a file system tells nobody.
        while {path.name for path in here.paths.spares.iterdir()} != kept:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        (USUAL, True),
        (VmSize(2, 4096), True),  # memory can be added
        (VmSize(2, 1023), False),
        (VmSize(1, 1024), False),
        (VmSize(3, 1024), False),
    ],
)
async def test_a_spare_fits_who_wants_its_cpus_and_no_less_memory(here: World, size: VmSize, fits: bool) -> None:
    await here.refilled()
    assert (await here.claim(size) is not None) is fits
    assert here.pool.ready == (1 if fits else 2)


async def test_a_spare_of_another_template_does_not_fit_and_is_replaced(here: World) -> None:
    await here.refilled()
    old = here.unclaimed
    here.templates.kernel = "second"
    assert await here.claim(USUAL) is None
    await here.refilled()
    assert here.sizes == {USUAL: 2}
    assert not any(spare.is_connected for spare in old)
    assert await here.claim(USUAL) is not None


async def test_a_spare_that_is_gone_is_given_to_nobody_and_replaced(here: World) -> None:
    await here.refilled()
    here.unclaimed[0].kill()
    first = await here.claim(USUAL, "one")
    assert first is not None
    assert first.is_connected
    assert await here.claim(USUAL, "two") is None
    await here.refilled()
    assert here.sizes == {USUAL: 2}


async def test_a_spare_that_does_not_take_its_container_is_ended(tmp_path: Path) -> None:
    async with world(tmp_path, pool_size=1) as here:
        await here.refilled()
        for error in (VmFailed("its VM is gone"), InvalidRequest("no container")):
            here.spawner.claim_errors.append(error)
            (spare,) = here.unclaimed
            assert await here.claim(USUAL) is None
            assert not spare.is_connected
            assert here.pool.ready == 0
            assert here.files == set()
            await here.refilled()


async def test_a_spare_that_does_not_take_its_container_is_not_in_the_way_of_the_next(here: World) -> None:
    await here.refilled()
    here.spawner.claim_errors.append(VmFailed("its VM is gone"))
    assert await here.claim(USUAL, "reef") is not None
    assert here.pool.ready == 0
    assert (here.paths.run / "reef/runtime.sock").exists()


async def test_it_follows_what_is_asked_for(here: World) -> None:
    for _ in range(STARTS):
        await here.claim(BIG)
    await here.refilled()
    assert here.sizes == {BIG: 2}
    for _ in range(STARTS // 2):
        await here.claim(SMALL)
    await here.refilled()
    assert here.sizes == {BIG: 1, SMALL: 1}
    for number in range(STARTS // 2):
        await here.claim(SMALL, f"small-{number}")
    await here.refilled()
    assert here.sizes == {SMALL: 2}


@settings(max_examples=40)
@given(
    asked=st.lists(st.sampled_from([VmSize(cpus, 256 * cpus) for cpus in (1, 2, 3, 4)]), max_size=12),
    pool_size=st.integers(0, 6),
)
def test_every_size_gets_its_share_of_the_pool(asked: list[VmSize], pool_size: int) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as root:
            async with world(Path(root), pool_size=pool_size) as here:
                for size in asked:
                    assert await here.claim(size) is None
                await here.refilled()
                last = Counter([USUAL, *asked][-STARTS:])
                assert sum(here.sizes.values()) == pool_size
                assert set(here.sizes) <= set(last)
                assert all(here.sizes[size] >= pool_size * count // last.total() for size, count in last.items())

    asyncio.run(run())


async def test_nothing_is_made_while_a_start_is_under_way(here: World) -> None:
    async with here.admission.start("reef", 0):
        here.pool.refill()
        for _ in range(10):
            await asyncio.sleep(0)
        assert here.spawner.asked == 0
    await here.settled()
    assert here.pool.ready == 2


async def test_it_is_emptied_when_nobody_starts_anything_and_filled_by_the_next_start(here: World) -> None:
    await here.refilled()
    here.now_s += 60
    await here.pool.tidy_up()
    assert here.pool.ready == 2
    here.now_s += 1
    await here.pool.tidy_up()
    assert (here.pool.ready, here.files) == (0, set())
    await here.refilled()
    assert here.pool.ready == 0
    await here.claim(USUAL)
    await here.refilled()
    assert here.pool.ready == 2


async def test_it_is_emptied_when_the_hosts_memory_is_short_and_filled_when_there_is_room(here: World) -> None:
    await here.refilled()
    here.available_mib = Settings().memory_reserve_mib
    await here.pool.tidy_up()
    assert here.pool.ready == 2
    here.available_mib -= 1
    await here.pool.tidy_up()
    assert (here.pool.ready, here.files) == (0, set())
    here.available_mib = Settings().memory_reserve_mib + 191
    await here.refilled()
    assert here.pool.ready == 0
    here.available_mib += 1
    await here.refilled()
    assert here.pool.ready == 2


async def test_without_a_template_there_is_no_spare(here: World) -> None:
    here.templates.has_any = False
    await here.refilled()
    assert (here.pool.ready, here.spawner.asked) == (0, 0)
    assert await here.claim(USUAL) is None


@pytest.mark.parametrize(
    ("error", "discarded"), [(VmFailed("it did not load"), ["it did not load"]), (OSError("no room"), [])]
)
async def test_a_spare_that_does_not_come_up_leaves_nothing_and_is_not_tried_again_at_once(
    here: World, error: VmFailed | OSError, discarded: list[str]
) -> None:
    here.spawner.spawn_error = error
    await here.refilled()
    assert here.spawner.asked == 1
    assert here.files == set()
    assert [why for _, why in here.templates.discarded] == discarded


async def test_a_closed_pool_has_and_makes_none(here: World) -> None:
    await here.refilled()
    await here.pool.close()
    assert here.spawner.alive == []
    assert here.files == set()
    await here.refilled()
    assert await here.claim(USUAL) is None
    assert here.spawner.asked == 2


async def test_what_a_killed_engine_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "spares/spare-abc").mkdir(parents=True)
    async with world(tmp_path, pool_size=0) as here:
        assert here.files == set()


async def test_a_pool_that_is_closed_while_a_clone_is_made_leaves_nothing_of_it(here: World) -> None:
    here.spawner.may_spawn.clear()
    here.pool.refill()
    await here.spawner.is_spawning.wait()
    await here.pool.close()
    assert here.files == set()


async def test_a_spare_that_is_taken_while_it_is_looked_at_does_not_end_the_refill(
    here: World, caplog: pytest.LogCaptureFixture
) -> None:
    await here.refilled()
    here.available_mib = 0
    gate = asyncio.Event()
    find = here.templates.find

    async def slow(kernel, vm):
        await gate.wait()
        return

    here.templates.find = slow
    here.pool.refill()
    for _ in range(5):
        await asyncio.sleep(0)
    await here.pool.tidy_up()
    gate.set()
    here.templates.find = find
    await here.settled()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_without_qemu_the_pool_stays_empty_quietly(here: World, caplog: pytest.LogCaptureFixture) -> None:
    async def fail(size):
        raise VmFailed("no QEMU")

    here.pool._make_vm = fail
    await here.refilled()
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.ERROR] == []


async def test_a_pool_that_is_closed_while_it_ends_a_spare_leaves_nothing_of_it(here: World) -> None:
    """tidy-up ends outdated ones: cancelled in the middle."""
    await here.refilled()
    gate = asyncio.Event()
    for spare in here.unclaimed:
        spare.wait_gone = gate.wait
    here.templates.kernel = "second"
    here.pool.refill()
    for _ in range(10):
        await asyncio.sleep(0)
    closing = asyncio.ensure_future(here.pool.close())
    for _ in range(5):
        await asyncio.sleep(0)
    gate.set()
    await closing
    assert here.files == set()
