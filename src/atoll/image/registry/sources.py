"""Where an image may be pulled from: its mirrors, tried first, and its own registry."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import TypeVar

from atoll.errors import NotFound, RegistryFailed
from atoll.image.reference import Reference
from atoll.image.registry.credentials import ANONYMOUS, Credentials
from atoll.image.registry.endpoint import Registries, Scheme, endpoints_of
from atoll.image.registry.repository import Repository, open_repository

Result = TypeVar("Result")


class Sources:
    """A repository that several registries may have; one that fails is not asked again, the next goes on."""

    def __init__(self, repositories: list[Repository]) -> None:
        self._repositories = repositories

    async def manifest(self, which: str, *, limit_bytes: int) -> tuple[bytes, str]:
        """As `Repository.manifest`."""
        return await self._first(lambda repository: repository.manifest(which, limit_bytes=limit_bytes))

    async def document(self, digest: str, *, limit_bytes: int) -> bytes:
        """As `Repository.document`."""
        return await self._first(lambda repository: repository.document(digest, limit_bytes=limit_bytes))

    async def tags(self) -> list[str]:
        """As `Repository.tags`."""
        return await self._first(lambda repository: repository.tags())

    async def blob(self, digest: str, size_bytes: int, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """As `Repository.blob`; another registry goes on where one has stopped."""
        done = begin
        while True:
            repository = self._repositories[0]
            try:
                async with aclosing(repository.blob(digest, size_bytes, done)) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        yield chunk
                return
            except (NotFound, RegistryFailed) as error:
                self._give_up(repository, error)

    async def _first(self, ask: Callable[[Repository], Awaitable[Result]]) -> Result:
        while True:
            repository = self._repositories[0]
            try:
                return await ask(repository)
            except (NotFound, RegistryFailed) as error:
                self._give_up(repository, error)

    def _give_up(self, repository: Repository, error: NotFound | RegistryFailed) -> None:
        """Go on with the next after `error`, which is raised when there is none."""
        if self._repositories[0] is repository:
            if len(self._repositories) == 1:
                raise error
            del self._repositories[0]


@asynccontextmanager
async def open_sources(
    reference: Reference,
    registries: Registries,
    scheme: Scheme = Scheme.AUTO,
    credentials: Mapping[str, Credentials] | None = None,
) -> AsyncIterator[Sources]:
    """Clients for the repository of `reference`; `credentials` are by registry, a mirror gets only its own.

    Raises `InvalidRequest`.
    """
    async with AsyncExitStack() as stack:
        repositories = []
        for endpoint in await endpoints_of(reference.domain, registries, scheme):
            own = (credentials or {}).get(endpoint.host, ANONYMOUS)
            opened = open_repository(reference, endpoint, registries.patience, own)
            repositories.append(await stack.enter_async_context(opened))
        yield Sources(repositories)


async def repository_tags(
    repository: str,
    registries: Registries,
    scheme: Scheme = Scheme.AUTO,
    credentials: Mapping[str, Credentials] | None = None,
) -> list[str]:
    """The tags that a repository has in its registry; raises `NotFound`, `RegistryFailed`, `InvalidRequest`."""
    async with open_sources(Reference.parse(repository), registries, scheme, credentials) as sources:
        return await sources.tags()
