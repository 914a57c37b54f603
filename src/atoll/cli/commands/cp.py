"""`atoll cp`: files from and to containers, and archives by `-`."""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from atoll.cli.errors import Failure
from atoll.cli.flags import switch
from atoll.cli.session import Session
from atoll.cli.verb import verb

if TYPE_CHECKING:
    from atoll.cli.copying.places import Place
    from atoll.client.shapes import PathStat

STREAM = "-"
CHUNK_BYTES = 1 << 20
# Go's FileMode: what is neither a file nor a directory.
_DIRECTORY, _SYMLINK = 1 << 31, 1 << 27
_SPECIAL = 1 << 26 | 1 << 25 | 1 << 24 | 1 << 21 | 1 << 19


@verb(
    "cp",
    "CONTAINER:SRC_PATH DEST_PATH|-\n    atoll cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
    help="Copy files/folders between a container and the local filesystem",
    at_least=2,
    at_most=2,
    aliases=("atoll container cp", "atoll cp"),
)
@switch("-a", "--archive", help="Archive mode (copy all uid/gid information)")
@switch("-L", "--follow-link", help="Always follow symbol link in SRC_PATH")
@switch("-q", "--quiet", help="Suppress progress output during copy")
def cp(session: Session, archive: bool, follow_link: bool, quiet: bool, arguments: Sequence[str]) -> None:
    """Copy one way or the other."""
    from atoll.cli.copying.places import parse_place

    if not arguments[0]:
        raise Failure("source can not be empty")
    if not arguments[1]:
        raise Failure("destination can not be empty")
    source, destination = (parse_place(argument) for argument in arguments)
    if source.container and destination.container:
        raise Failure("copying between containers is not supported")
    if source.container:
        _copy_out(session, source, destination.path, is_exact=archive, follows=follow_link, is_quiet=quiet)
    elif destination.container:
        _copy_in(session, source.path, destination, is_exact=archive, follows=follow_link, is_quiet=quiet)
    else:
        raise Failure("must specify at least one container source")


def _copy_out(session: Session, source: "Place", to: str, *, is_exact: bool, follows: bool, is_quiet: bool) -> None:
    from atoll.cli.copying.places import last_name, means_content, target
    from atoll.cli.copying.unpack import Incoming, Unpacker
    from atoll.client import archives

    path, name = source.path, last_name(source.path)
    if to != STREAM:
        _check_output(to)
    if follows:
        found = archives.stat_path(session.client, source.container, path)
        if found["mode"] & _SYMLINK:
            path = found["linkTarget"]
    found, response = archives.read(session.client, source.container, path)
    if to == STREAM:
        for chunk in response.chunks():
            _write(chunk)
        return
    is_directory = bool(found["mode"] & _DIRECTORY)
    if Path(to).is_symlink():
        to = os.path.realpath(to)
    goes = target(
        source.path,
        name=name,
        is_directory=is_directory,
        to=to,
        exists=os.path.lexists(to),
        to_directory=Path(to).is_dir(),
    )
    if not Path(goes.directory).is_dir():
        raise Failure(f'invalid output path: directory "{goes.directory}" does not exist')
    incoming = Incoming(response.chunks())
    top = "" if means_content(path) else last_name(path)
    Unpacker(top, goes, is_exact=is_exact, warn=session.warn).extract(incoming)
    _say(session, incoming.count, str(Path(to).absolute()), is_quiet)


def _copy_in(session: Session, source: str, to: "Place", *, is_exact: bool, follows: bool, is_quiet: bool) -> None:
    from atoll.cli.copying.pack import packed
    from atoll.cli.copying.places import last_name, target
    from atoll.client import archives

    path, found = _destination(session, to)
    is_directory = found is not None and bool(found["mode"] & _DIRECTORY)
    if found is not None and found["mode"] & _SPECIAL:
        raise Failure(f'destination "{to.container}:{to.path}" must be a directory or a regular file')
    if source == STREAM:
        if not is_directory:
            raise Failure(f'destination "{to.container}:{to.path}" must be a directory')
        archives.write(session.client, to.container, path, _stdin(), with_owners=is_exact)
        return
    real = os.path.realpath(source) if follows else source
    try:
        # A slash at the end follows a link, as the kernel has it.
        mode = os.lstat(real).st_mode
    except OSError as error:
        raise Failure(
            f"lstat {os.path.normpath(Path(source).absolute())}: {(error.strerror or str(error)).lower()}"
        ) from error
    goes = target(
        source,
        name=last_name(os.path.normpath(Path(source).absolute())),
        is_directory=stat.S_ISDIR(mode),
        to=path,
        exists=found is not None,
        to_directory=is_directory,
    )
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for piece in packed(real, goes.name):
            sent += len(piece)
            yield piece

    archives.write(session.client, to.container, goes.directory, counted(), with_owners=is_exact)
    _say(session, sent, f"{to.container}:{to.path}", is_quiet)


def _destination(session: Session, to: "Place") -> "tuple[str, PathStat | None]":
    """Where a copy into a container goes, links followed, and what is there."""
    from atoll.client import archives
    from atoll.client.client import EngineError

    path = to.path
    found = None
    try:
        found = archives.stat_path(session.client, to.container, path)
        if found["mode"] & _SYMLINK:
            path = found["linkTarget"]
            found = archives.stat_path(session.client, to.container, path)
    except EngineError as error:
        # A path that is not there may be made.
        if error.status != 404 or str(error).startswith("No such container"):
            raise
        found = None
    return path, found


def _check_output(to: str) -> None:
    from atoll.cli.copying.places import parent

    directory = parent(to)
    if not Path(directory).is_dir():
        raise Failure(f'invalid output path: directory "{directory}" does not exist')
    if Path(to).exists() and not (Path(to).is_dir() or Path(to).is_file()):
        raise Failure(f'invalid output path: "{to}" must be a directory or a regular file')


def _stdin() -> Iterator[bytes]:
    while chunk := os.read(0, CHUNK_BYTES):
        yield chunk


def _write(chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(1, view) :]


def _say(session: Session, count: int, where: str, is_quiet: bool) -> None:
    from atoll.cli.values.sizes import human_size

    if not is_quiet:
        session.warn(f"Successfully copied {human_size(count)} to {where}")
