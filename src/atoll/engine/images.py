"""The engine's images: the content store, and what containers and listeners have to do with it."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing

from msgspec.structs import replace

from atoll.engine.container import Container
from atoll.engine.events import EventBus
from atoll.engine.registry import Registry
from atoll.errors import Conflict, NotFound
from atoll.image import (
    Commit,
    ContentStore,
    Credentials,
    Execution,
    Image,
    Registries,
    Scheme,
    log_in,
    merged_execution,
    repository_tags,
)


class Images:
    """Finds and removes images; loading, pulling and pushing go to `content` directly."""

    def __init__(
        self, content: ContentStore, registries: Registries, containers: Registry[Container], events: EventBus
    ) -> None:
        self.content = content
        self._registries = registries
        self._containers = containers
        self._events = events

    async def tags(self, repository: str, scheme: Scheme, credentials: Mapping[str, Credentials]) -> list[str]:
        """The tags that a repository has in its registry: raises as `atoll.image.repository_tags` does."""
        return await repository_tags(repository, self._registries, scheme, credentials)

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
        """Remove a name, and the image with its last, which a container's image loses only by `force`.

        Its layers stay for as long as a container needs them. Raises `Conflict`, as Docker does, and `NotFound`.
        """
        image = await self.content.get(reference)
        users = self.users(image.id)
        by_id = image.id.removeprefix("sha256:").startswith(reference.removeprefix("sha256:"))
        if users and (by_id or len(image.repo_tags) <= 1):
            short = image.id.removeprefix("sha256:")[:12]
            running = [container for container in users if container.record.has_vm or container.record.restarting]
            user = (running or users)[0].id[:12]
            if by_id and (running or not force):
                how, state = ("cannot", "running") if running else ("must", "stopped")
                raise Conflict(
                    f"conflict: unable to delete {reference} ({how} be forced) - "
                    f"image is being used by {state} container {user}"
                )
            if not force:
                raise Conflict(
                    f'conflict: unable to remove repository reference "{reference}" (must force) - '
                    f"container {user} is using its referenced image {short}"
                )
        # Nothing is awaited between the look at the containers and the entry's end.
        removed = await self.content.remove(reference, force=force, in_use={image.id} if users else frozenset())
        self._publish_removal(image.id, removed)
        return removed

    async def prune(self, wanted: Callable[[Image], bool], *, dangling: bool) -> tuple[list[dict[str, str]], int]:
        """Remove the images that no container was made of and that `wanted` takes; what Docker says, and bytes freed.

        With `dangling` those alone that have no name with a tag.
        """
        before = self.content.upkeep.usage()
        removed: list[dict[str, str]] = []
        for image in await self.content.list():
            if (dangling and image.repo_tags) or not wanted(image):
                continue
            # Looked at anew for each: containers are made meanwhile.
            if self.users(image.id) or not self.content.has(image.id):
                continue
            entries = await self.content.remove(image.id, force=True)
            self._publish_removal(image.id, entries)
            removed += entries
        after = self.content.upkeep.usage()
        return removed, sum(size for diff_id, size in before.layer_bytes.items() if diff_id not in after.layer_bytes)

    def _publish_removal(self, image_id: str, removed: Sequence[Mapping[str, str]]) -> None:
        for entry in removed:
            for action, name in entry.items():
                self.publish("untag" if action == "Untagged" else "delete", image_id, name)
