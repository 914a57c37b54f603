"""`atoll load` and `atoll import`: images from files or standard input."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from atoll.cli.errors import Failure
from atoll.cli.flags import LIST, flag, switch
from atoll.cli.session import Session
from atoll.cli.values.references import split_reference
from atoll.cli.verb import verb

CHUNK_BYTES = 1 << 18
STDIN = "-"


@verb(
    "load",
    help="Load an image from a tar archive or STDIN",
    at_most=1,
    usage="[FILE]",
    aliases=("atoll image load", "atoll load"),
)
@flag("-i", "--input", "source", help="Read from tar archive file, instead of STDIN")
@flag("--platform", help='Load only the given platform variant, "os[/arch[/variant]]" (e.g., "linux/amd64")')
@switch("-q", "--quiet", help="Suppress the load output")
def load(session: Session, source: str | None, platform: str | None, quiet: bool, arguments: Sequence[str]) -> None:
    """Store the images of a docker-archive or OCI layout tar."""
    from atoll.cli.progress import show_progress
    from atoll.client import images

    if source and arguments:
        raise Failure("say the archive once: as an argument or with --input")
    with _opened(source or (arguments[0] if arguments else STDIN), "load") as archive:
        lines = images.load(session.client, _chunks(archive), quiet=quiet, platform=platform)
        show_progress(session, lines, quiet=quiet)


@verb(
    "import",
    "file|- [REPOSITORY[:TAG]]",
    help="Import the contents from a tarball to create a filesystem image",
    at_least=1,
    at_most=2,
    aliases=("atoll image import", "atoll import"),
)
@flag("-c", "--change", "changes", kind=LIST, multiple=True, help="Apply Dockerfile instruction to the created image")
@flag("-m", "--message", default="", help="Set commit message for imported image")
@flag("--platform", help="Set platform of the image")
def import_(
    session: Session, changes: Sequence[str], message: str, platform: str | None, arguments: Sequence[str]
) -> None:
    """Make an image of a root filesystem."""
    from atoll.cli.progress import show_progress
    from atoll.client import images

    source, *name = arguments
    repository, tag_name = split_reference(name[0]) if name else ("", "")
    with _opened(source, "import") as archive:
        lines = images.import_(
            session.client,
            _chunks(archive),
            repository=repository,
            tag_name=tag_name,
            changes=changes,
            message=message,
            platform=platform,
        )
        show_progress(session, lines)


@contextmanager
def _opened(source: str, verb_name: str) -> Iterator[int]:
    """A descriptor of the file, or of standard input; raises `Failure` when there is nothing to read."""
    if source == STDIN:
        if os.isatty(0):
            raise Failure(f"requested {verb_name} from stdin, but stdin is a terminal: name a file, or redirect it")
        yield 0
        return
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise Failure(f"open {source}: {(error.strerror or str(error)).lower()}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _chunks(descriptor: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(descriptor, CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise Failure(f"the archive cannot be read: {(error.strerror or str(error)).lower()}") from error
