"""`atoll export`."""

import os
from collections.abc import Sequence
from pathlib import Path

from atoll.cli.errors import Failure
from atoll.cli.flags import flag
from atoll.cli.session import Session
from atoll.cli.verb import verb


@verb(
    "export",
    "CONTAINER",
    help="Export a container's filesystem as a tar archive",
    at_least=1,
    at_most=1,
    aliases=("atoll container export", "atoll export"),
)
@flag("-o", "--output", help="Write to a file, instead of STDOUT")
def export(session: Session, output: str | None, arguments: Sequence[str]) -> None:
    """Write a container's root as a tar."""
    from atoll.client import archives

    if not output and os.isatty(1):
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    if not output:
        for chunk in archives.export(session.client, arguments[0]).chunks():
            _write(1, chunk)
        return
    response = archives.export(session.client, arguments[0])
    # Under another name until it is whole.
    part = Path(f"{output}.part-{os.getpid()}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for chunk in response.chunks():
                _write(descriptor, chunk)
        finally:
            os.close(descriptor)
        part.replace(output)
    except OSError as error:
        raise Failure(f"{output} cannot be written: {(error.strerror or str(error)).lower()}") from error
    finally:
        part.unlink(missing_ok=True)


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]
