"""`--tmpfs`: Docker's options, made into a mount of the container."""

import re

from atoll.errors import InvalidRequest
from atoll.model.agent import Mount

# Docker mounts with these unless the user says the opposite.
_DEFAULTS = ("noexec", "nosuid", "nodev")
_OPPOSITES = {
    "noexec": "exec", "nosuid": "suid", "nodev": "dev", "ro": "rw", "sync": "async", "noatime": "atime",
    "nodiratime": "diratime", "norelatime": "relatime",
}  # fmt: skip
_FLAGS = {*_OPPOSITES, *_OPPOSITES.values(), "dirsync", "strictatime"}
_VALUES = {
    "size": re.compile(r"\d+[kmgtKMGT%]?"),
    "nr_blocks": re.compile(r"\d+[kmgKMG]?"),
    "nr_inodes": re.compile(r"\d+[kmgKMG]?"),
    "mode": re.compile(r"[0-7]{1,5}"),
    "uid": re.compile(r"\d+"),
    "gid": re.compile(r"\d+"),
}


def tmpfs_mount(target: str, options: str) -> Mount:
    """The mount for `--tmpfs target:options`; later options win over earlier ones.

    Raises `InvalidRequest` for a target that is not an absolute path below /, and for an unknown option.
    """
    if not target.startswith("/") or not target.strip("/") or ".." in target.split("/"):
        raise InvalidRequest(f"bad tmpfs target {target!r}: give an absolute path below /")
    flags = dict.fromkeys(_DEFAULTS)
    values: dict[str, str] = {}
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if equals and key in _VALUES and _VALUES[key].fullmatch(value):
            values[key] = option
        elif not equals and key in _FLAGS:
            flags.pop(_opposite(key), None)
            flags[key] = None
        else:
            raise InvalidRequest(f"bad tmpfs option {option!r} for {target}")
    return Mount(target=target, type="tmpfs", source="tmpfs", options=(*flags, *values.values()))


def _opposite(flag: str) -> str:
    return _OPPOSITES.get(flag) or next((name for name, other in _OPPOSITES.items() if other == flag), "")
