import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from doubles.engine import ID, EngineWithoutVms, make

from atoll.engine.container import Container
from atoll.engine.services import Services
from atoll.errors import BootFailed, CommandNotFound, Conflict, InvalidRequest, NotFound, NotModified
from atoll.model.container import ContainerState, ExitStatus, RestartPolicy


@pytest.fixture
def engine(tmp_path: Path) -> EngineWithoutVms:
    return EngineWithoutVms(tmp_path)


@pytest.fixture
async def services(engine: EngineWithoutVms) -> AsyncIterator[Services]:
    async with engine.running() as services:
        yield services


@pytest.fixture
async def container(services: Services) -> Container:
    return await make(services)


def actions(services: Services) -> list[str]:
    return [event.action for event in services.events.past(0, 2**63)]


async def test_a_started_container_runs_and_its_record_says_so(engine: EngineWithoutVms, container: Container) -> None:
    await container.start()
    assert (container.record.state, container.record.pid) == (ContainerState.RUNNING, 4242)


async def test_the_exit_code_reaches_everybody_who_waits(engine: EngineWithoutVms, container: Container) -> None:
    next_exit = container.wait("next-exit")
    await container.start()
    not_running = container.wait("not-running")
    engine.launcher.runtimes[ID].end(7)
    assert [await next_exit, await not_running, await container.wait("not-running")] == [7, 7, 7]
    assert (container.record.state, container.record.exit_code) == (ContainerState.EXITED, 7)


async def test_starting_twice_is_no_change(container: Container) -> None:
    await container.start()
    with pytest.raises(NotModified):
        await container.start()


async def test_two_starts_at_once_make_one_vm(engine: EngineWithoutVms, container: Container) -> None:
    results = await asyncio.gather(container.start(), container.start(), return_exceptions=True)
    assert [type(result) for result in results] == [type(None), NotModified]
    assert engine.launcher.launches == 1


async def test_a_command_that_is_not_there_leaves_exit_code_127(engine: EngineWithoutVms, container: Container) -> None:
    engine.launcher.start_error = CommandNotFound('exec: "nosuch": executable file not found in $PATH')
    with pytest.raises(CommandNotFound):
        await container.start()
    record = container.record
    assert (record.state, record.exit_code) == (ContainerState.CREATED, 127)
    assert "nosuch" in record.error
    assert engine.launcher.runtimes == {}


async def test_a_client_attached_before_a_start_that_fails_is_let_go(
    engine: EngineWithoutVms, container: Container
) -> None:
    engine.launcher.launch_error = BootFailed("no kernel")
    async with container.attach(stdin=False, stdout=True, stderr=True) as attachment:
        with pytest.raises(BootFailed):
            await container.start()
        assert await attachment.session() is None


async def test_a_client_attached_before_the_start_misses_nothing(
    engine: EngineWithoutVms, container: Container
) -> None:
    async with container.attach(stdin=False, stdout=True, stderr=True) as attachment:
        await container.start()
        session = await attachment.session()
        assert session is not None
        engine.launcher.runtimes[ID].say(("stdout", b"first"))
        engine.launcher.runtimes[ID].end(0)
        assert [piece async for piece in session.output()] == [("stdout", b"first")]


async def test_stop_sends_the_stop_signal_and_returns_at_the_end(
    engine: EngineWithoutVms, services: Services, container: Container
) -> None:
    await container.start()
    runtime = engine.launcher.runtimes[ID]
    await container.stop(timeout_s=5)
    assert runtime.signals == [("init", 15)]
    assert (container.record.state, container.record.exit_code) == (ContainerState.EXITED, 143)
    assert actions(services) == ["start", "kill", "die", "stop"]
    with pytest.raises(NotModified):
        await container.stop()


async def test_a_bad_signal_is_refused_before_anything_happens(container: Container) -> None:
    await container.start()
    with pytest.raises(InvalidRequest, match="Invalid signal: FOO"):
        await container.kill("FOO")
    assert container.record.state is ContainerState.RUNNING


async def test_killing_what_does_not_run_is_a_conflict(container: Container) -> None:
    with pytest.raises(Conflict, match=f"cannot kill container: reef: container {ID} is not running"):
        await container.kill("KILL")


async def test_a_running_container_is_removed_only_by_force(
    engine: EngineWithoutVms, services: Services, container: Container
) -> None:
    await container.start()
    with pytest.raises(Conflict, match="container is running: stop the container before removing or force remove"):
        await container.remove(force=False)
    removed = container.wait("removed")
    await container.remove(force=True)
    assert await removed == 137
    assert services.table.all() == []
    assert list(services.paths.containers.iterdir()) == []
    with pytest.raises(NotFound, match="No such container: reef"):
        services.registry.get("reef")


async def test_a_container_that_is_booting_can_be_removed_by_force(
    engine: EngineWithoutVms, services: Services, container: Container
) -> None:
    engine.launcher.may_start.clear()
    start = asyncio.create_task(container.start())
    await engine.launcher.has_launched(1)
    await container.remove(force=True)
    with pytest.raises(Exception, match="killed"):
        await start
    assert services.table.all() == []
    assert engine.launcher.runtimes == {}


async def test_an_auto_removed_container_is_gone_when_wait_returns(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, auto_remove=True)
    removed = container.wait("removed")
    await container.start()
    engine.launcher.runtimes[ID].end(3)
    assert await removed == 3
    assert services.table.all() == []


async def test_an_auto_removed_container_that_does_not_start_goes_as_well(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, auto_remove=True)
    removed = container.wait("removed")
    engine.launcher.start_error = CommandNotFound("nosuch")
    with pytest.raises(CommandNotFound):
        await container.start()
    assert await removed == 127


async def test_a_killed_runtime_is_an_exit_with_the_reason(engine: EngineWithoutVms, container: Container) -> None:
    await container.start()
    ended = container.wait("not-running")
    engine.launcher.runtimes[ID].vanish()
    assert await ended == 137
    assert "runtime ended unexpectedly" in container.record.error


async def test_a_policy_starts_it_again_until_its_retries_are_used_up(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, restart=RestartPolicy(name="on-failure", maximum_retries=2))
    await container.start()
    not_running = container.wait("not-running")
    for launch in (1, 2, 3):
        await engine.launcher.has_launched(launch)
        await container._settled.wait()
        engine.launcher.runtimes[ID].end(launch)
    assert await not_running == 3
    assert (container.record.restart_count, container.record.restarting) == (2, False)


async def test_a_container_that_waits_for_its_restart_can_be_stopped(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, restart=RestartPolicy(name="always"))
    await container.start()
    ended = container.wait("next-exit")
    engine.launcher.runtimes[ID].end(1)
    await ended
    assert container.record.restarting
    await container.stop()
    assert not container.record.is_running


async def test_stop_keeps_the_policy_from_starting_it_again(engine: EngineWithoutVms, services: Services) -> None:
    container = await make(services, restart=RestartPolicy(name="always"))
    await container.start()
    await container.stop()
    assert not container.record.restarting


async def test_restart_makes_a_new_vm_and_keeps_those_waiting_who_wait_for_the_end(
    engine: EngineWithoutVms, services: Services
) -> None:
    container = await make(services, auto_remove=True)
    await container.start()
    not_running = container.wait("not-running")
    await container.restart()
    assert not not_running.done()
    assert engine.launcher.launches == 2
    assert container.record.state is ContainerState.RUNNING


async def test_a_paused_container_can_be_stopped_but_not_started(container: Container) -> None:
    await container.start()
    await container.pause()
    with pytest.raises(Conflict, match="cannot start a paused container, try unpause instead"):
        await container.start()
    with pytest.raises(Conflict, match="is paused, unpause the container before exec"):
        container.runtime_for("exec")
    await container.stop()
    assert container.record.state is ContainerState.EXITED


async def test_a_name_is_given_back_on_rename(services: Services, container: Container) -> None:
    container.rename("atoll")
    assert services.registry.get("/atoll") is container
    with pytest.raises(NotFound):
        services.registry.get("reef")
    with pytest.raises(InvalidRequest, match="Renaming a container with the same name as its current name"):
        container.rename("atoll")


async def test_a_killed_engine_finds_its_running_containers_again(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await (await make(services)).start()
    async with engine.running() as services:
        container = services.registry.get("reef")
        assert container.record.state is ContainerState.RUNNING
        ended = container.wait("not-running")
        engine.launcher.runtimes[ID].end(5)
        assert await ended == 5


async def test_an_end_while_there_was_no_engine_is_known_afterwards(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await (await make(services)).start()
    engine.launcher.runtimes[ID].end(9, out_of_memory=True)
    async with engine.running() as services:
        record = services.registry.get("reef").record
        assert (record.state, record.exit_code, record.out_of_memory) == (ContainerState.EXITED, 9, True)


async def test_a_container_that_the_host_took_down_is_exited_with_the_reason(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        await (await make(services)).start()
    engine.launcher.runtimes.clear()
    async with engine.running() as services:
        record = services.registry.get("reef").record
        assert (record.state, record.exit_code) == (ContainerState.EXITED, 137)
        assert "its runtime was gone when the engine came back" in record.error


@pytest.mark.parametrize(
    ("policy", "stopped_by_user", "code", "starts"),
    [
        ("no", False, 1, False),
        ("always", False, 0, True),
        ("always", True, 0, True),
        ("unless-stopped", False, 0, True),
        ("unless-stopped", True, 0, False),
        ("on-failure", False, 1, True),
        ("on-failure", False, 0, False),
    ],
)
async def test_a_new_engine_honours_restart_policies(
    engine: EngineWithoutVms, policy: str, stopped_by_user: bool, code: int, starts: bool
) -> None:
    async with engine.running() as services:
        container = await make(services, restart=RestartPolicy(name=policy))  # type: ignore[arg-type]  # parametrized
        await container.start()
        if stopped_by_user:
            await container.stop()
    if not stopped_by_user:
        engine.launcher.runtimes[ID].end(code)
    async with engine.running() as services:
        container = services.registry.get("reef")
        if starts:
            await engine.launcher.has_launched(2)
        await asyncio.sleep(0)
        assert engine.launcher.launches == (2 if starts else 1)


async def test_an_auto_removed_container_that_ended_without_an_engine_is_removed_by_the_next(
    engine: EngineWithoutVms,
) -> None:
    async with engine.running() as services:
        await (await make(services, auto_remove=True)).start()
    engine.launcher.exits[ID] = ExitStatus(code=0, finished_at=datetime.now(UTC))
    engine.launcher.runtimes.clear()
    async with engine.running() as services:
        await services.registry.get("reef").wait("removed")
        assert services.table.all() == []


async def test_files_that_no_container_owns_are_removed(engine: EngineWithoutVms) -> None:
    (engine.paths.containers / "half-made" / "log").mkdir(parents=True)
    (engine.paths.run / "0123456789ab").mkdir()
    async with engine.running() as services:
        await make(services)
    async with engine.running():
        assert [entry.name for entry in engine.paths.containers.iterdir()] == [ID]
        assert list(engine.paths.run.iterdir()) == [engine.paths.networks]


async def test_a_start_cut_short_by_the_engines_end_is_as_if_it_was_not_asked_for(engine: EngineWithoutVms) -> None:
    async with engine.running() as services:
        container = await make(services)
        engine.launcher.may_start.clear()
        services.tasks.spawn(container.start(), "start")
        await engine.launcher.has_launched(1)
    async with engine.running() as services:
        assert services.registry.get("reef").record.state is ContainerState.CREATED
        assert engine.launcher.runtimes == {}


# --- work on files (`visit.py`)


async def test_a_visit_shows_nobody_a_running_container_and_is_shared(
    engine: EngineWithoutVms, services: Services, container: Container
) -> None:
    async with container.files() as one, container.files() as other:
        assert one is other
        assert (container.record.state, container.record.pid) == (ContainerState.CREATED, 0)
        assert container.runtime is None
    async with container.files() as again:  # it stays for a moment
        assert again is one
    assert engine.launcher.launches == 1
    assert "start" not in actions(services)


async def test_a_running_container_is_not_visited(engine: EngineWithoutVms, container: Container) -> None:
    await container.start()
    async with container.files() as runtime:
        assert runtime is container.runtime
    assert engine.launcher.launches == 1
    await container.pause()
    with pytest.raises(Conflict, match="is paused"):
        async with container.files():
            pass


async def test_a_start_waits_for_visitors_and_not_for_the_moment_after(
    engine: EngineWithoutVms, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll.engine.visit.STAYS_S", 1000.0)
    async with container.files():
        start = asyncio.ensure_future(container.start())
        await asyncio.sleep(0.05)
        assert not start.done()
        assert engine.launcher.launches == 1
    await asyncio.wait_for(start, 10)
    assert container.record.state is ContainerState.RUNNING
    assert engine.launcher.launches == 2


async def test_a_removal_waits_for_visitors_unless_it_is_forced(
    engine: EngineWithoutVms, services: Services, container: Container
) -> None:
    async with container.files():
        removal = asyncio.ensure_future(container.remove(force=False))
        await asyncio.sleep(0.05)
        assert not removal.done()
        with pytest.raises(Conflict, match="is being removed"):
            async with container.files():
                pass
    await asyncio.wait_for(removal, 10)
    other = await make(services, name="other", container_id="b" * 64)
    async with other.files():
        await asyncio.wait_for(other.remove(force=True), 10)


async def test_a_visit_that_cannot_begin_fails_for_all_and_leaves_the_container_startable(
    engine: EngineWithoutVms, container: Container
) -> None:
    engine.launcher.start_error = BootFailed("no answer")
    with pytest.raises(BootFailed):
        async with container.files():
            pass
    engine.launcher.start_error = None
    await container.start()
    assert container.record.state is ContainerState.RUNNING


async def test_a_vm_that_ends_under_a_visit_ends_the_visit(engine: EngineWithoutVms, container: Container) -> None:
    async with container.files():
        engine.launcher.runtimes[ID].vanish()
        await asyncio.sleep(0.05)
    async with container.files():
        pass
    assert engine.launcher.launches == 2


async def test_an_engine_ends_the_visits_of_the_last_one(engine: EngineWithoutVms, tmp_path: Path) -> None:
    async with engine.running() as services:
        container = await make(services)
        record = container.record
        held = await engine.launcher.launch(record)
        await held.hold()
    async with engine.running() as services:
        assert services.registry.get(ID).record == record
        assert ID not in engine.launcher.runtimes
