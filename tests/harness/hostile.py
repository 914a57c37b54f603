"""What reads bytes from strangers, as functions of bytes alone: for the corpus, for Hypothesis and for the fuzzer.

A target answers with its outcome in a line, the same for the same bytes: what was made of them, or why they were
refused. Anything else (another exception, a hang, more memory than a few dozen MiB) is a bug.
"""

import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from atoll.errors import AtollError
from atoll.image.archive import read_archive
from atoll.image.blobs import BlobStore
from atoll.image.changes import apply_changes
from atoll.image.layer import write_layer
from atoll.image.limits import Limits
from atoll.image.manifest import choose, parse_config, parse_manifest, parse_platform
from atoll.image.oci import Execution, Index
from atoll.image.reference import Reference

LIMITS = Limits(
    layer_bytes=8 << 20, layer_metadata_bytes=4 << 20, blob_bytes=8 << 20, document_bytes=1 << 20, layers=127
)
"""Small enough that nothing within them takes long."""

Target = Callable[[bytes], str]


def layer(data: bytes) -> str:
    """A layer's tar, compressed or not, made into a squashfs in memory."""
    with io.FileIO(os.memfd_create("layer"), "r+") as image:
        written = write_layer(io.BytesIO(data), image, LIMITS)
        assert written.squashfs_bytes <= os.fstat(image.fileno()).st_size
    return f"{written.entries} entries, {written.tar_bytes} bytes of tar"


def archive(data: bytes) -> str:
    """What `load` takes."""
    with tempfile.TemporaryDirectory(prefix="atoll-hostile-", dir="/dev/shm") as directory:
        root = Path(directory)
        for name in ("ingest", "scratch"):
            (root / name).mkdir()
        images = read_archive(io.BytesIO(data), root / "scratch", BlobStore(root / "blobs", root / "ingest"), LIMITS)
        assert not any((root / "ingest").iterdir())
    return ", ".join(f"{[name.familiar for name in image.names]} of {len(image.layers)} layers" for image in images)


def manifest(data: bytes) -> str:
    """A manifest or an index, and of an index the member that would be taken."""
    found = parse_manifest(data, limits=LIMITS)
    if isinstance(found, Index):
        return f"index, {choose(found).digest}"
    return f"manifest, {len(found.layers)} layers"


def config(data: bytes) -> str:
    """An image's configuration."""
    found = parse_config(data)
    return f"{found.platform}, {len(found.diff_ids)} layers"


def reference(data: bytes) -> str:
    """An image's name as a user or an archive gives it; what is accepted means the same when it is read again."""
    found = Reference.parse(data.decode("utf-8", "surrogateescape"))
    assert Reference.parse(str(found)) == found
    assert Reference.parse(found.familiar) == found
    return found.familiar


def platform(data: bytes) -> str:
    """What `--platform` takes."""
    return str(parse_platform(data.decode("utf-8", "surrogateescape")))


def changes(data: bytes) -> str:
    """What `import --change` takes."""
    execution = apply_changes(Execution(), [data.decode("utf-8", "surrogateescape")])
    return ", ".join(name for name in execution.__struct_fields__ if getattr(execution, name))


TARGETS: dict[str, Target] = {
    target.__name__: target for target in (layer, archive, manifest, config, reference, platform, changes)
}


def outcome(target: Target, data: bytes) -> str:
    """What the target makes of `data`, or `refused: ` and why."""
    try:
        return target(data)
    except AtollError as error:
        return f"refused: {error}"
