"""A volume: data that outlives its containers; and the table that the engine remembers volumes in.

It is one ext4 disk (`disk.img`), which one container may write or many may read; or, with the option `shared`, a
directory of the host (`data`), which many may write.
"""

import re
from datetime import datetime

import msgspec
from msgspec import Struct

from atoll.errors import InvalidRequest, Unsupported
from atoll.store import Database

SCHEMA = (
    """
    CREATE TABLE volume (
        name TEXT PRIMARY KEY,
        record BLOB NOT NULL
    ) STRICT
    """,
)
DISK = "disk.img"
DATA = "data"

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", re.ASCII)
_LONGEST_NAME = 255
_SIZE = re.compile(r"(\d+)\s*([bkmgt]?)(i?b)?", re.IGNORECASE | re.ASCII)
_YES = {"": True, "true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


class Volume(Struct, frozen=True, kw_only=True):
    """One volume; `size_bytes` is its disk's, 0 when it is `is_shared`. `options` are as the user gave them."""

    name: str
    created_at: datetime
    size_bytes: int
    is_shared: bool = False
    is_anonymous: bool = False
    labels: dict[str, str] = {}
    options: dict[str, str] = {}


class VolumeOptions(Struct, frozen=True, kw_only=True):
    """What `--opt` can say of a volume; None is the default size."""

    size_bytes: int | None = None
    is_shared: bool = False

    @classmethod
    def parse(cls, options: dict[str, str]) -> "VolumeOptions":
        """From `size=10g` and `shared`; raises `InvalidRequest`, `Unsupported` for options of Docker's local driver."""
        size_bytes, is_shared = None, False
        for name, value in options.items():
            if name == "size":
                size_bytes = parse_bytes("a volume", value)
            elif name == "shared" and value.lower() in _YES:
                is_shared = _YES[value.lower()]
            elif name in ("type", "o", "device"):
                raise Unsupported(
                    f"a volume is a disk of its own and has no option '{name}': mount the directory with -v"
                )
            else:
                raise InvalidRequest(f"invalid option: {name}={value} (a volume has the options size and shared)")
        if is_shared and size_bytes is not None:
            raise InvalidRequest("a shared volume is a directory of the host and has no size: leave out one of the two")
        return cls(size_bytes=size_bytes, is_shared=is_shared)


def check_volume_name(name: str) -> str:
    """`name`, if a volume may be called so; raises `InvalidRequest`."""
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise InvalidRequest(
            f'"{name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are '
            "allowed. If you intended to pass a host directory, use absolute path"
        )
    return name


def parse_bytes(what: str, text: str) -> int:
    """The size that was written for `what`, as `10g`; raises `InvalidRequest`."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise InvalidRequest(f"invalid size '{text}' for {what}: write a number with b, k, m, g or t")
    return int(match[1]) << (10 * " kmgt".index(match[2].lower().replace("b", "") or " "))


_decoder = msgspec.json.Decoder(Volume)


class VolumeTable:
    """The table of volumes."""

    def __init__(self, database: Database) -> None:
        self._database = database
        database.migrate(SCHEMA)

    def all(self) -> list[Volume]:
        """Every volume, by name."""
        return [
            _decoder.decode(row["record"]) for row in self._database.query("SELECT record FROM volume ORDER BY name")
        ]

    def insert(self, volume: Volume) -> None:
        """Add a volume; `sqlite3.IntegrityError` when there is one of its name."""
        self._database.execute("INSERT INTO volume VALUES (?, ?)", (volume.name, msgspec.json.encode(volume)))

    def delete(self, name: str) -> None:
        """Forget a volume."""
        self._database.execute("DELETE FROM volume WHERE name = ?", (name,))
