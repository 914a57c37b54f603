"""A container's bundle: the directory of all that is its own, made whole or not at all.

<root>/containers/<id>/config.json    what its runtime has to do (`BundleSpec`), written before each start
                       writable.img   its writable layer, unless it is read-only
                       log/           what it printed
                       exit.json      how it last ended (`ExitStatus`), written by its runtime
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from atoll.model.container import BundleSpec, ExitStatus
from atoll.paths import Paths

CONFIG = "config.json"
WRITABLE = "writable.img"
LOG = "log"
EXIT = "exit.json"

MakeDisk = Callable[[Path], Awaitable[None]]


@asynccontextmanager
async def new_bundle(bundle: Path, make_disk: MakeDisk | None) -> AsyncIterator[None]:
    """Make the directory with an empty log and the writable disk; an exception in the block takes it all away again."""
    bundle.mkdir(mode=0o700)  # noqa: ASYNC240  # one system call, as below
    try:
        (bundle / LOG).mkdir(mode=0o700)
        if make_disk is not None:
            await make_disk(bundle / WRITABLE)
        yield
    except BaseException:
        shutil.rmtree(bundle, ignore_errors=True)
        raise


def write_spec(spec: BundleSpec) -> Path:
    """Write `config.json` for the next start, forget how the last one ended, and return the file."""
    bundle = Path(spec.bundle)
    (bundle / EXIT).unlink(missing_ok=True)
    new = bundle / f"{CONFIG}.new"
    new.write_bytes(msgspec.json.encode(spec))
    new.chmod(0o600)
    return new.rename(bundle / CONFIG)


def read_exit(bundle: Path) -> ExitStatus | None:
    """How the container last ended, if its runtime could still say."""
    try:
        return msgspec.json.decode((bundle / EXIT).read_bytes(), type=ExitStatus)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


async def remove_files(paths: Paths, container_id: str) -> None:
    """Remove all that is a container's; its bundle is out of the way at once, even if the engine is killed half way."""
    await asyncio.to_thread(_remove_files, paths.bundle(container_id), paths.run_dir(container_id))


def _remove_files(bundle: Path, run_dir: Path) -> None:
    shutil.rmtree(run_dir, ignore_errors=True)
    doomed = bundle.with_name(f".{bundle.name}.removed")
    with suppress(FileNotFoundError):
        bundle.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)
