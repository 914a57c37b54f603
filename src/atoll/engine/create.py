"""Making a container: its name, its bundle and its record, all or nothing."""

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from atoll.engine.bundle import new_bundle
from atoll.engine.container import Container
from atoll.engine.host_paths import prepare_sources
from atoll.engine.record import ContainerRecord
from atoll.engine.services import Services
from atoll.errors import NotFound
from atoll.image import ContentStore
from atoll.model.container import ContainerConfig

Configure = Callable[[str], ContainerConfig]


async def create_container(
    services: Services, content: ContentStore, name: str | None, configure: Configure, *, drops_privileges: bool
) -> Container:
    """A new container named `name` (None: at random), configured by `configure` once it has an id.

    With `drops_privileges` its QEMU gets a user id that no other container has. Raises `Conflict` for a name or an
    address that is taken, `NotFound` when the image went meanwhile or a network is not there, `OutOfSpace`, and what
    `configure` raises; nothing is left behind then.
    """
    container_id = secrets.token_hex(32)
    config = configure(container_id)
    if services.settings.verify_images:
        config = replace(config, verify=True)
    if config.verify:
        # What the image is now is what the container will be given, whatever becomes of the files before its start.
        await content.image_disk(await content.get(config.image_id), verified=True)
    taken = services.registry.reserve(name, container_id)
    made: list[str] = []
    try:

        async def make_disk(file: Path) -> None:
            await content.writable_disk(file, config.disk_bytes or services.settings.disk_mib << 20)

        prepare_sources(config.mounts)
        # A read-only root is the image alone.
        disk = None if config.read_only else make_disk
        async with new_bundle(services.paths.bundle(container_id), disk):
            made = await services.volumes.provide(config.mounts)
            record = ContainerRecord(
                id=container_id,
                name=taken,
                created_at=datetime.now(UTC),
                config=config,
                vm_uid=_free_uid(services) if drops_privileges else None,
            )
            # Nothing is awaited from here to the registry: who removes the image or a volume finds the container, or it
            # is not made.
            if not content.has(config.image_id):
                raise NotFound(f"No such image: {config.image}")
            for mount in config.mounts:
                if mount.type == "volume":
                    services.volumes.get(mount.name)
            attachments = services.topology.attached(container_id, config.networks)
            record = replace(record, attachments=attachments)
            services.table.insert(record)
    except BaseException:
        services.registry.release(taken)
        await services.volumes.forget(made)
        raise
    container = Container(record, services)
    services.registry.add(container)
    container.publish("create")
    return container


def _free_uid(services: Services) -> int:
    used = {container.record.vm_uid for container in services.registry}
    first = services.settings.vm_uid_first
    return next(uid for uid in range(first, first + len(used) + 1) if uid not in used)
