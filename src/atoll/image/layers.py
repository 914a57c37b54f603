"""The layers of all images: each a squashfs, named by its diff ID, made once and shared."""

from io import FileIO
from pathlib import Path
from struct import Struct

from atoll.errors import InvalidRequest
from atoll.image.durable import new_file, sha256_of, sync_directory
from atoll.image.layer import WrittenLayer, write_layer
from atoll.image.limits import Limits
from atoll.image.tarstream import Source

_USED_BYTES = Struct("<40xQ")
_SUFFIX = ".squashfs"


class LayerStore:
    """Squashfs files under `root`; `make` blocks for as long as its source takes, the rest hardly."""

    def __init__(self, root: Path, ingest: Path) -> None:
        """Open the store; `ingest` holds unfinished layers and must be on the same file system."""
        self._root = root
        self._ingest = ingest
        self._sizes: dict[str, int] = {}
        root.mkdir(parents=True, exist_ok=True)

    def path(self, diff_id: str) -> Path:
        """Where the layer is, or will be."""
        return self._root / (diff_id.removeprefix("sha256:") + _SUFFIX)

    def has(self, diff_id: str) -> bool:
        """Whether the layer is here, whole."""
        return self.path(diff_id).exists()

    def size_bytes(self, diff_id: str) -> int:
        """Bytes of the layer's squashfs, without what fills it up to a whole MiB; 0 when it is gone."""
        if diff_id not in self._sizes:
            try:
                with self.path(diff_id).open("rb") as file:
                    (self._sizes[diff_id],) = _USED_BYTES.unpack(file.read(_USED_BYTES.size))
            except FileNotFoundError:
                return 0
        return self._sizes[diff_id]

    def checksum(self, diff_id: str) -> str:
        """The SHA-256 of the layer's squashfs as it is on the disk; blocks."""
        with FileIO(self.path(diff_id)) as file:
            return sha256_of(file)

    def make(self, source: Source, diff_id: str | None, limits: Limits) -> WrittenLayer:
        """Make a layer of the tar in `source`; `diff_id` is what it must have, if that is known.

        Raises `InvalidRequest` when it is another one, and what `write_layer` raises.
        """
        with new_file(self._ingest) as new:
            written = write_layer(source, new.file, limits)
            if diff_id is not None and written.diff_id != diff_id:
                raise InvalidRequest(
                    f"a layer is not what the image says: it has the diff ID {written.diff_id}, not {diff_id}"
                )
            if not self.has(written.diff_id):
                new.keep_as(self.path(written.diff_id))
        return written

    def remake(self, source: Source, diff_id: str, limits: Limits, *, keep: bool = True) -> str:
        """Make a layer anew, and return the SHA-256 of its squashfs; without `keep` only to know that.

        Who has the old file open keeps that. Raises as `make` does.
        """
        with new_file(self._ingest) as new:
            written = write_layer(source, new.file, limits)
            if written.diff_id != diff_id:
                raise InvalidRequest(f"the blob unpacks to a layer with the diff ID {written.diff_id}, not {diff_id}")
            new.file.seek(0)
            checksum = sha256_of(new.file)
            if keep:
                self._sizes.pop(diff_id, None)
                new.keep_as(self.path(diff_id))
        return checksum

    def make_durable(self) -> None:
        """Let the names of all layers that are here survive a power cut; blocks."""
        sync_directory(self._root)

    def diff_ids(self) -> list[str]:
        """Every layer that is here."""
        return [f"sha256:{path.name.removesuffix(_SUFFIX)}" for path in self._root.iterdir()]
