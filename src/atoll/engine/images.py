"""The engine's images: the content store, and what containers and listeners have to do with it."""

from collections.abc import Sequence
from contextlib import aclosing

from msgspec.structs import replace

from atoll.engine.container import Container
from atoll.engine.events import EventBus
from atoll.engine.registry import Registry
from atoll.errors import Conflict, NotFound
from atoll.image import Commit, ContentStore, Execution, Image, merged_execution


class Images:
    """Finds and removes images; loading and pulling go to `content` directly."""

    def __init__(self, content: ContentStore, containers: Registry[Container], events: EventBus) -> None:
        self.content = content
        self._containers = containers
        self._events = events

    def users(self, image_id: str) -> list[Container]:
        """The containers made of an image."""
        return [container for container in self._containers if container.record.config.image_id == image_id]

    async def shown_name(self, container: Container) -> str:
        """The image as `docker ps` names it: as the user wrote it while that still means the same image."""
        config = container.record.config
        try:
            image = await self.content.get(config.image)
        except NotFound:
            return config.image_id
        return config.image if image.id == config.image_id else config.image_id

    def publish(self, action: str, image_id: str, name: str) -> None:
        """An event about an image."""
        self._events.publish("image", action, image_id, {"name": name})

    async def tag(self, reference: str, name: str) -> None:
        """Give an image one more name."""
        image = await self.content.get(reference)
        await self.content.tag(reference, name)
        self.publish("tag", image.id, name)

    async def commit(
        self,
        container: Container,
        *,
        name: str | None,
        asked: Execution,
        author: str,
        comment: str,
        changes: Sequence[str],
        freeze: bool,
    ) -> Image:
        """Make an image of what a container has written; with `freeze` its processes stand still while that is read.

        `asked` is how containers of the image run, where that is another way than this one's. Raises `Conflict`,
        `InvalidRequest`, `OutOfSpace`.
        """
        config = container.record.config
        parent = await self.content.get(config.image_id)
        own = replace(
            parent.config.execution,
            user=config.user,
            env=config.environment or None,
            entrypoint=config.entrypoint or None,
            cmd=config.command or None,
            working_dir=config.working_dir,
            on_build=None,
            labels=config.labels or None,
            stop_signal=parent.config.execution.stop_signal if config.stop_signal == "SIGTERM" else config.stop_signal,
            stop_timeout=config.stop_timeout_s,
        )
        commit = Commit(
            execution=merged_execution(asked, own),
            created_by=" ".join(config.command),
            author=author,
            comment=comment,
            changes=changes,
        )
        async with container.files() as runtime, aclosing(runtime.read_changes(freeze=freeze)) as layer:
            image = await self.content.commit(parent.id, layer, name, commit)
        container.publish("commit", comment=comment)
        return image

    async def remove(self, reference: str, force: bool) -> list[dict[str, str]]:
        """Remove a name, and the image with its last; raises `Conflict` when a container was made of it."""
        image = await self.content.get(reference)
        by_id = image.id.removeprefix("sha256:").startswith(reference.removeprefix("sha256:"))
        is_last_name = by_id or len(image.repo_tags) <= 1
        users = self.users(image.id)
        if users and is_last_name:
            container = users[0]
            running = "running" if container.record.is_running else "stopped"
            short = image.id.removeprefix("sha256:")[:12]
            raise Conflict(
                f"conflict: unable to delete {reference if by_id else short} (cannot be forced) - "
                f"image is being used by {running} container {container.id[:12]}"
            )
        removed = await self.content.remove(reference, force=force)
        for entry in removed:
            for action, name in entry.items():
                self.publish("untag" if action == "Untagged" else "delete", image.id, name)
        return removed
