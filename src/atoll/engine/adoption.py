"""What an engine does first: find what the last one left, take over what runs, clean up the rest.

The last engine may have been killed at any instant, and the host may have been rebooted since. The table of records
is what counts; a runtime that listens is alive, whatever the record says; everything else on disk that no record
names is rubbish.
"""

import asyncio
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

from atoll.engine.container import Container
from atoll.engine.ending import LOST, end_runtime
from atoll.engine.restart import restarts_with_engine
from atoll.engine.services import Services
from atoll.errors import AtollError
from atoll.model.container import ContainerState, ExitStatus
from atoll.runtime.client import RuntimeClient

log = logging.getLogger("atoll.engine")

_ALIVE = (ContainerState.STARTING, ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.STOPPING)


async def adopt_containers(services: Services) -> None:
    """Fill the registry from the table, adopt runtimes, remove stale files; restart policies come later."""
    for record in sorted(services.table.all(), key=lambda record: record.created_at):
        services.registry.add(Container(record, services))
    await asyncio.gather(*(_adopt(container, services) for container in services.registry))
    services.networking.all_adopted()
    await _clean_up(services)


def honour_policies(services: Services) -> None:
    """Start in the background what should run, remove what should not be there (`--rm`)."""
    for container in services.registry:
        record = container.record
        if record.has_vm:
            continue
        if record.config.auto_remove and record.state is ContainerState.EXITED:
            services.tasks.spawn(container.remove(force=True), f"removal of container {record.name}")
        elif record.restarting or restarts_with_engine(record):
            services.tasks.spawn(container.restart_by_policy(), f"restart of container {record.name}")


async def _adopt(container: Container, services: Services) -> None:
    record = container.record
    runtime = await services.launcher.find(record)
    if runtime is None:
        if record.has_vm:
            _note_end(container, services)
        return
    try:
        found = await runtime.state()
    except AtollError as error:
        log.warning("runtime of container %s does not answer, ending it: %s", record.name, error)
        await end_runtime(runtime)
        _note_end(container, services)
        return
    if found.is_held:
        log.info("files of container %s were being worked on when the engine ended: ending its VM", record.name)
        await end_runtime(runtime)
        return
    if found.state in _ALIVE and found.started_at is not None:
        log.info("adopting container %s, %s", record.name, found.state.value)
        services.launcher.adopted(record)
        services.networking.adopt(record, found.taps)
        container.adopt(runtime, found.state, found.pid, found.started_at)
        return
    if found.state in (ContainerState.EXITED, ContainerState.DEAD):
        # On its way out: it answers `wait` with what happened.
        services.launcher.adopted(record)
        services.networking.adopt(record, found.taps)
        container.adopt(runtime, ContainerState.STOPPING, found.pid, record.started_at)
        return
    # Booted for a `start` that was never answered: as if it had not been asked for.
    log.info("container %s was being started when the engine ended: ending its VM", record.name)
    await end_runtime(runtime)
    container.never_started()


def _note_end(container: Container, services: Services) -> None:
    """The runtime is gone: it left a note, or the host went down with it."""
    record = container.record
    status = services.launcher.last_exit(record)
    if status is None and record.state is ContainerState.STARTING:
        container.never_started()
        return
    status = status or ExitStatus(
        code=LOST,
        finished_at=datetime.now(UTC),
        reason="its runtime was gone when the engine came back: the host went down, or it was killed",
    )
    container.ended_unwatched(status)


async def _clean_up(services: Services) -> None:
    """Bundles and run directories that belong to no container."""
    known = {container.id for container in services.registry}
    running = {services.paths.run_dir(container.id).name for container in services.registry if container.record.has_vm}
    for bundle in _directories(services.paths.containers):
        if bundle.name not in known:
            log.info("removing %s, which no container owns", bundle)
            await asyncio.to_thread(shutil.rmtree, bundle, ignore_errors=True)
    for run_dir in _directories(services.paths.run):
        if run_dir.name not in running and run_dir != services.paths.networks:
            await _end_stray(run_dir)
            await asyncio.to_thread(shutil.rmtree, run_dir, ignore_errors=True)


async def _end_stray(run_dir: Path) -> None:
    """A runtime without a container: its removal was interrupted."""
    try:
        runtime = await RuntimeClient.connect(run_dir)
    except AtollError:
        return
    log.info("ending the runtime in %s, which no container owns", run_dir)
    await end_runtime(runtime)


def _directories(parent: Path) -> list[Path]:
    return [entry for entry in parent.iterdir() if entry.is_dir()]
