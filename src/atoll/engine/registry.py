"""All containers of the engine, found by name, id or the beginning of an id."""

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from atoll.engine.names import check_name, random_name
from atoll.errors import Conflict, InvalidRequest, NotFound


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=_Named)


class Registry(Generic[C]):
    """The containers that exist, and the names that are taken or reserved for one being made."""

    def __init__(self) -> None:
        self._by_id: dict[str, C] = {}
        self._names: dict[str, str] = {}

    def __iter__(self) -> Iterator[C]:
        """Newest first, as in `docker ps`."""
        return reversed(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, reference: str) -> C:
        """By full id, name, or a beginning of exactly one id; raises `NotFound`, or `InvalidRequest` when ambiguous."""
        if container := self._by_id.get(reference):
            return container
        owner = self._names.get(reference.removeprefix("/"), "")
        if container := self._by_id.get(owner):
            return container
        if not reference:
            raise InvalidRequest("a container's name or id is needed")
        found = [container for id, container in self._by_id.items() if id.startswith(reference)]
        if len(found) > 1:
            raise InvalidRequest(f"Multiple IDs found with provided prefix: {reference}")
        if not found:
            raise NotFound(f"No such container: {reference}")
        return found[0]

    def reserve(self, name: str | None, container_id: str) -> str:
        """Take `name`, or a random one, for `container_id`; raises `Conflict` when it is taken."""
        bare = random_name(self._names) if name is None else check_name(name)
        if (owner := self._names.get(bare)) is not None:
            raise Conflict(
                f'Conflict. The container name "/{bare}" is already in use by container "{owner}". '
                "You have to remove (or rename) that container to be able to reuse that name."
            )
        self._names[bare] = container_id
        return bare

    def release(self, name: str) -> None:
        """Give a reserved name back."""
        self._names.pop(name, None)

    def add(self, container: C) -> None:
        """A container that now exists, under its name."""
        self._by_id[container.id] = container
        self._names[container.name] = container.id

    def remove(self, container: C) -> None:
        """A container that is no more."""
        self._by_id.pop(container.id, None)
        self._names.pop(container.name, None)
