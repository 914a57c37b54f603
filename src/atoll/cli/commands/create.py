"""`atoll create`, and making a container for `run`: with its image pulled when it is not here."""

import os
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.cli.commands.container_flags import ContainerFlags, container_flags
from atoll.cli.errors import ENGINE_ERROR, Failure
from atoll.cli.session import Session
from atoll.cli.values.references import normalized
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from atoll.client.shapes import Object

IMAGE_USAGE = "IMAGE [COMMAND] [ARG...]"


@verb(
    "create",
    IMAGE_USAGE,
    help="Create a new container",
    at_least=1,
    interspersed=False,
    aliases=("atoll container create", "atoll create"),
)
@container_flags
def create(session: Session, arguments: Sequence[str], **values: object) -> None:
    """Create a container and print its id."""
    from atoll.cli.commands.container_request import container_request

    flags = ContainerFlags(values)
    image, *command = arguments
    session.print(create_container(session, flags, image, container_request(flags, image, command, detached=False)))


def create_container(session: Session, flags: ContainerFlags, image: str, body: "Object") -> str:
    """The new container's id; pulls as `--pull` says and writes the `--cidfile`."""
    from atoll.client import EngineError, containers

    def ask() -> str:
        created = containers.create(session.client, body, name=flags.name, platform=flags.platform)
        for warning in created["Warnings"] or ():
            session.warn(f"WARNING: {warning}")
        return created["Id"]

    with _cidfile(flags.cidfile) as write:
        if flags.pull == "always":
            _pull(session, flags, image)
        try:
            container = ask()
        except EngineError as error:
            if error.status != 404 or "no such image" not in str(error).lower() or flags.pull != "missing":
                raise
            session.warn(f"Unable to find image '{normalized(image)}' locally")
            _pull(session, flags, image)
            container = ask()
        write(container)
    return container


def _pull(session: Session, flags: ContainerFlags, image: str) -> None:
    from atoll.cli.commands.pull import pull_image

    pull_image(session, image, platform=flags.platform, quiet=flags.quiet, descriptor=2)


@contextmanager
def _cidfile(name: str | None) -> "Iterator[Callable[[str], object]]":
    """A function that writes the id; the file is made first, and removed when there is nothing to write.

    Raises `Failure` when it exists, is somewhere we cannot write, or is no file.
    """
    if not name:
        yield lambda text: None
        return
    path = Path(name)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        raise Failure(
            f"container ID file found, make sure the other container isn't running or delete {path}", ENGINE_ERROR
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Failure(f"failed to create the container ID file: open {path}: {reason}", ENGINE_ERROR) from error
    with os.fdopen(descriptor, "w") as file:
        try:
            yield file.write
        except BaseException:
            with suppress(OSError):
                path.unlink()
            raise
