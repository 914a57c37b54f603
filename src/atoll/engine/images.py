"""The engine's images: the content store, and what containers and listeners have to do with it."""

from atoll.engine.container import Container
from atoll.engine.events import EventBus
from atoll.engine.registry import Registry
from atoll.errors import Conflict, NotFound
from atoll.image import ContentStore, Credentials, Registries, Scheme, log_in


class Images:
    """Finds and removes images; loading, pulling and pushing go to `content` directly."""

    def __init__(
        self, content: ContentStore, registries: Registries, containers: Registry[Container], events: EventBus
    ) -> None:
        self.content = content
        self._registries = registries
        self._containers = containers
        self._events = events

    async def log_in(self, domain: str, credentials: Credentials, scheme: Scheme) -> str:
        """Whether the registry called `domain` takes `credentials`: raises as `atoll.image.log_in` does."""
        return await log_in(domain, credentials, self._registries, scheme)

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
