"""Linux capabilities: what a container has, and how `--cap-add` and `--cap-drop` change it, as Docker does."""

from collections.abc import Iterable

from atoll.errors import InvalidRequest

# capability.h's order, up to Linux 5.9; none has been added since.
ALL = (
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
    "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
    "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
    "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
    "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
    "CHECKPOINT_RESTORE",
)  # fmt: skip

# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
DEFAULT = (
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "NET_RAW",
    "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
)  # fmt: skip

_EVERY = "ALL"


def capabilities(add: Iterable[str], drop: Iterable[str], privileged: bool) -> tuple[str, ...]:
    """The capability set of a container, sorted by capability number.

    Names may begin with CAP_, in any case; `ALL` stands for all. `ALL` added: all but the dropped ones; `ALL`
    dropped: only the added ones; both: as if `ALL` was added. Raises `InvalidRequest` for an unknown name.
    """
    added, dropped = {_name(name) for name in add}, {_name(name) for name in drop}
    if privileged:
        return ALL
    if _EVERY in added:
        chosen = set(ALL) - dropped
    elif _EVERY in dropped:
        chosen = added
    else:
        chosen = set(DEFAULT) - dropped | added
    return tuple(name for name in ALL if name in chosen)


def _name(name: str) -> str:
    plain = name.upper().removeprefix("CAP_")
    if plain != _EVERY and plain not in ALL:
        raise InvalidRequest(f"unknown capability {name!r}: see capabilities(7) for the names")
    return plain
