"""What host and agent say to each other: the requests' parameters and results.

`docs/protocol.md` describes frames, streams and credits; `agent/src/message.rs` is the same list in Rust.
A struct travels as a MessagePack map by field name; a field that is missing has its default.
"""

from typing import Literal

from msgspec import Struct

from atoll.model.network import Interface


class Hello(Struct, frozen=True, kw_only=True):
    """First frame of the agent after the channel opens."""

    protocol: int
    agent_version: str
    kernel: str


class Disk(Struct, frozen=True, kw_only=True):
    """A virtio-blk device by its fixed slot, e.g. `0000:00:05.0`."""

    pci: str


class Extent(Struct, frozen=True):
    """Where something lies on a disk, in bytes."""

    offset_bytes: int
    size_bytes: int


class HashTree(Struct, frozen=True, kw_only=True):
    """What verifies a layer: its dm-verity tree (format 1, SHA-256, blocks of 4096 bytes, no salt) on the same disk.

    `root` is the digest of the tree's top block: whoever changes layer and tree cannot change that.
    """

    place: Extent
    root: bytes


class Root(Struct, frozen=True, kw_only=True):
    """The container's root: image layers at their places on `image`, bottom first, under `writable`.

    With `trees`, one for each layer, what is read of a layer is what it was, or an I/O error.
    `writable` is an ext4 disk; without it the root is the image alone (`--read-only`).
    With `read_only` the assembled root is mounted read-only even when `writable` is there.
    """

    image: Disk
    layers: tuple[Extent, ...]
    trees: tuple[HashTree, ...] = ()
    writable: Disk | None = None
    read_only: bool = False


class Mount(Struct, frozen=True, kw_only=True):
    """A mount inside the container, made after the root, in order.

    `type` is a file system of the kernel's (tmpfs), or `share`: what the host exports under the number `source`, or
    `volume`: the ext4 at `extent` of `disk`, read-only with the option `ro`. With `fill` an empty volume gets what the
    image has at `target`.
    """

    target: str
    type: str
    source: str
    options: tuple[str, ...] = ()
    disk: Disk | None = None
    extent: Extent | None = None
    fill: bool = False


class Rlimit(Struct, frozen=True, kw_only=True):
    """`name` as in setrlimit without RLIMIT_, lower case (`nofile`); 2**64-1 is unlimited."""

    name: str
    soft: int
    hard: int


class Limits(Struct, frozen=True, kw_only=True):
    """The container's cgroup v2 limits; None is no limit."""

    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int = 100_000
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    pids: int | None = None


class Terminal(Struct, frozen=True, kw_only=True):
    """Size of the terminal to make, in characters."""

    rows: int = 24
    columns: int = 80


class Stdio(Struct, frozen=True, kw_only=True):
    """Stream ids, chosen by the host; None is /dev/null. With a terminal all output is on `stdout`."""

    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None


class Process(Struct, frozen=True, kw_only=True):
    """A process to start in the container.

    `user` is Docker's `name|uid[:group|gid]`, looked up in the image's /etc/passwd and /etc/group.
    `capabilities` are names without CAP_, upper case: the bounding and (for uid 0) the permitted and
    effective set; inheritable and ambient stay empty, as Docker's since CVE-2022-24769.
    HOME is added to `environment` from the passwd entry when missing.
    """

    arguments: tuple[str, ...]
    environment: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int = 0
    terminal: Terminal | None = None
    stdio: Stdio = Stdio()


class Start(Struct, frozen=True, kw_only=True):
    """Request `start`: the whole container in one round trip. Result: `Started`.

    The container's first process has the process id `init` in later requests. `files` are written
    into the root before the process starts (/etc/hostname, /etc/hosts, /etc/resolv.conf) by
    bind-mounting files of a tmpfs, so that the image and the writable layer stay as they are.
    `entropy` is mixed into the guest's RNG and a reseed forced before anything of the container runs.
    `growth_bytes` of memory are being added to what the guest was booted with: the process starts when they are there.
    Its `interfaces` are all that it has besides `lo`; they are up when the process starts.
    With `hold` everything is put together and the process does not run: the files can be worked on.
    With `waits` all but the last step is done: the process begins at the request `proceed`, whose result is nil.
    """

    hostname: str
    domainname: str = ""
    entropy: bytes
    clock_ns: int
    growth_bytes: int = 0
    root: Root
    mounts: tuple[Mount, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    files: dict[str, bytes] = {}
    sysctls: dict[str, str] = {}
    limits: Limits = Limits()
    profile: "Profile"
    init: bool = False
    hold: bool = False
    waits: bool = False
    process: Process


class Profile(Struct, frozen=True, kw_only=True):
    """What has a say in the file systems that the kernel provides; most containers have the same.

    Parameters of the request `forget`, too: the container that comes next is likely to be like this. Result: nil.
    """

    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    privileged: bool = False
    shm_bytes: int


class Step(Struct, frozen=True):
    """A part of a start, and when it was done: microseconds since the agent had read the request."""

    name: str
    done_us: int


class Started(Struct, frozen=True, kw_only=True):
    """Result of `start` and `exec`: the process's pid in the guest's root namespace, and where the time went."""

    pid: int
    steps: tuple[Step, ...] = ()


class Exec(Struct, frozen=True, kw_only=True):
    """Request `exec`: one more process in the container, named `id` from here on. Result: `Started`."""

    id: str
    privileged: bool = False
    process: Process


class Signal(Struct, frozen=True, kw_only=True):
    """Request `signal`; `id` is `init` or an exec's id; `everyone` reaches all its processes. Result: nil."""

    id: str
    signal: int
    everyone: bool = False


class Resize(Struct, frozen=True, kw_only=True):
    """Request `resize` of a process's terminal. Result: nil."""

    id: str
    rows: int
    columns: int


class ProcessList(Struct, frozen=True, kw_only=True):
    """Result of `processes` (no parameters): one row a process of the container, pids as inside it."""

    rows: tuple["ProcessRow", ...]


class ProcessRow(Struct, frozen=True, kw_only=True):
    """One process; times in seconds: since the epoch for `started_s`, used for `cpu_s`."""

    pid: int
    parent_pid: int
    user: str
    command: str
    name: str
    state: str
    terminal: str
    started_s: float
    cpu_s: float
    resident_bytes: int
    virtual_bytes: int


class Statistics(Struct, frozen=True, kw_only=True):
    """Result of `statistics` (no parameters): the container's cgroup and the guest's memory."""

    cpu_usage_us: int
    cpu_user_us: int
    cpu_system_us: int
    online_cpus: int
    throttled_periods: int = 0
    throttled_us: int = 0
    memory_bytes: int
    memory_peak_bytes: int
    memory_file_bytes: int
    memory_anonymous_bytes: int
    memory_inactive_file_bytes: int
    memory_limit_bytes: int
    guest_memory_total_bytes: int
    guest_memory_available_bytes: int
    pids: int
    block_read_bytes: int
    block_write_bytes: int
    oom_kills: int


class Connect(Struct, frozen=True, kw_only=True):
    """Request `connect`: one more interface. Result: nil, when it is up.

    `files` are new contents of files that `Start` has mounted; those that it has not are left alone.
    """

    interface: Interface
    files: dict[str, bytes] = {}


class Disconnect(Struct, frozen=True, kw_only=True):
    """Request `disconnect`: the interface in this slot is taken away; `files` as in `Connect`. Result: nil."""

    pci: str
    files: dict[str, bytes] = {}


class StatPath(Struct, frozen=True, kw_only=True):
    """Request `stat_path`: what `path`, from the container's root on, is. Result: `PathStat`.

    With a slash or `/.` at its end, a symbolic link is followed.
    """

    path: str


class PathStat(Struct, frozen=True, kw_only=True):
    """Docker's description of a path; `mode` is Go's `FileMode`, `link_target` where a symbolic link ends up."""

    name: str
    size_bytes: int
    mode: int
    mtime_s: int
    mtime_ns: int
    link_target: str = ""

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory itself."""
        return bool(self.mode & 1 << 31)


class ReadArchive(Struct, frozen=True, kw_only=True):
    """Request `read_archive`: `path`, and all below it, as a tar on `stream`. Result: nil, when all of it is sent."""

    path: str
    stream: int


class WriteArchive(Struct, frozen=True, kw_only=True):
    """Request `write_archive`: the tar on `stream` is extracted into the directory `path`. Result: nil, when it is.

    With `no_overwrite_dir_non_dir` a directory never takes the place of anything else, nor anything else that of one.
    """

    path: str
    stream: int
    no_overwrite_dir_non_dir: bool = False


class ReadStream(Struct, frozen=True, kw_only=True):
    """Requests `read_root` and `changes`, with their result on `stream`. Result: nil, when all of it is sent.

    `read_root` is the whole root as a tar, without what is mounted in it. `changes` is a letter (C, A, D) and a path
    that ends with a zero byte for each thing changed, added or deleted since the image.
    """

    stream: int


class ReadChanges(Struct, frozen=True, kw_only=True):
    """Request `read_changes`: all that was written, as an image layer's tar on `stream`. Result: nil, when it is sent.

    With `freeze` the container's processes stand still meanwhile.
    """

    stream: int
    freeze: bool = False


class Exited(Struct, frozen=True, kw_only=True):
    """Event `exited`, sent after the last byte of the process's output and its end-of-file frames.

    `code` is the exit status, or 128 + the signal that ended it. `out_of_memory`: the kernel's
    OOM killer struck in the container while it lived.
    """

    id: str
    code: int
    out_of_memory: bool = False


Method = Literal[
    "ping",
    "start",
    "exec",
    "signal",
    "resize",
    "processes",
    "statistics",
    "connect",
    "disconnect",
    "poweroff",
    "prepare_template",
    "forget",
    "stat_path",
    "read_archive",
    "write_archive",
    "read_root",
    "changes",
    "read_changes",
]
