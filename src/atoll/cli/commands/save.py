"""`atoll save`: images into an archive, a file or standard output."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from atoll.cli.errors import Failure
from atoll.cli.flags import Kind, flag
from atoll.cli.session import Session
from atoll.cli.verb import verb

FORMATS = ("docker", "oci")


def _parse_format(text: str) -> str:
    if text not in FORMATS:
        raise ValueError(f"must be one of {', '.join(FORMATS)}")
    return text


@verb(
    "save",
    "IMAGE [IMAGE...]",
    help="Save one or more images to a tar archive (streamed to STDOUT by default)",
    at_least=1,
    aliases=("atoll image save", "atoll save"),
)
@flag("-o", "--output", help="Write to a file, instead of STDOUT")
@flag(
    "--format",
    "archive_format",
    kind=Kind("string", _parse_format),
    help="Write a docker-archive (docker) or an OCI layout (oci) alone, instead of an archive that is both",
)
def save(session: Session, output: str | None, archive_format: str | None, arguments: Sequence[str]) -> None:
    """Write an archive; a file is there whole or not at all."""
    from atoll.client import images

    if output is None and os.isatty(1):
        raise Failure("cowardly refusing to save to a terminal. Use the -o flag or redirect")
    client = session.client
    with _written(output) as descriptor:
        for chunk in images.save(client, arguments, archive_format=archive_format):
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _written(output: str | None) -> Iterator[int]:
    """A descriptor of what to write to; a new file gets its name when the block ends well."""
    if output is None:
        yield 1
        return
    path = Path(output)
    if not path.parent.is_dir():
        raise Failure(f'failed to save image: invalid output path: directory "{path.parent}" does not exist')
    if path.is_dir():
        raise Failure(f'failed to save image: invalid output path: "{output}" is a directory')
    # Neither a device nor a pipe may be replaced by a file.
    in_place = path.exists() and not path.is_file()
    new = path if in_place else path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(new, os.O_WRONLY | os.O_CLOEXEC | (0 if in_place else os.O_CREAT | os.O_EXCL), 0o600)
        try:
            yield descriptor
            if not in_place:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if not in_place:
            new.rename(path)
    except OSError as error:
        raise Failure(f"failed to save image: {output}: {(error.strerror or str(error)).lower()}") from error
    finally:
        if not in_place:
            with suppress(FileNotFoundError):
                new.unlink()
