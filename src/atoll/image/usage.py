"""What images take on the disk: of each layer the squashfs and the blobs that it came as."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Usage:
    """`layer_bytes` by diff ID; `images` are the layers of each, by its id."""

    layer_bytes: Mapping[str, int]
    images: Mapping[str, Sequence[str]]
    _users: Counter[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Count how many images have each layer."""
        counted = Counter(diff_id for diff_ids in self.images.values() for diff_id in set(diff_ids))
        object.__setattr__(self, "_users", counted)

    @property
    def total_bytes(self) -> int:
        """All layers, each once."""
        return sum(self.layer_bytes.values())

    def image_bytes(self, image_id: str) -> int:
        """All layers of an image."""
        return sum(self.layer_bytes[diff_id] for diff_id in set(self.images.get(image_id, ())))

    def shared_bytes(self, image_id: str) -> int:
        """Those of them that other images have as well."""
        diff_ids = set(self.images.get(image_id, ()))
        return sum(self.layer_bytes[diff_id] for diff_id in diff_ids if self._users[diff_id] > 1)
