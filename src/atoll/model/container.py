"""A container as the engine stores it and the runtime reads it."""

from datetime import datetime
from enum import Enum
from typing import Literal

from msgspec import Struct

from atoll.model.agent import Extent, HashTree, Rlimit, Terminal
from atoll.model.network import Egress, Interface, NetworkWish, PortBinding


class MountPoint(Struct, frozen=True, kw_only=True):
    """A volume or a host directory (or file) in a container, as the user asked for it.

    `source` is the host's path of a bind mount, `name` that of a volume. `fills`: a new volume begins with what the
    image has at `target`. `mode` is what was written behind `-v a:b:`. `is_anonymous`: the volume was given no name.
    `makes_source`: a directory of the host that is missing is made (`-v`). `options` and `labels` are for a new volume.
    """

    type: Literal["volume", "bind"]
    target: str
    source: str = ""
    name: str = ""
    read_only: bool = False
    fills: bool = True
    mode: str = ""
    propagation: str = ""
    is_anonymous: bool = False
    makes_source: bool = False
    options: dict[str, str] = {}
    labels: dict[str, str] = {}


class ContainerState(Enum):
    """Life of a container; `runtime/lifecycle.py` holds the transitions."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    EXITED = "exited"
    DEAD = "dead"


class RestartPolicy(Struct, frozen=True, kw_only=True):
    """Docker's `--restart`; `maximum_retries` 0 is no maximum and only `on-failure` looks at it."""

    name: Literal["no", "on-failure", "always", "unless-stopped"] = "no"
    maximum_retries: int = 0


class ContainerConfig(Struct, frozen=True, kw_only=True):
    """What the user asked for, merged with the image's configuration where Docker merges it.

    `entrypoint` + `command` is what runs. None for a limit is the setting's default or no limit.
    `image` is as the user wrote it, `image_id` the digest of the image's configuration. `terminal_size` is the
    size that the terminal of the first process begins with. `network_mode` is as the user wrote it ("" is the default),
    `networks` what follows from it and what else was asked for. `ports` are to be published, `exposed` are those that
    `publish_all` publishes besides (`80/tcp`).
    """

    image: str
    image_id: str
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str
    domainname: str = ""
    labels: dict[str, str] = {}
    terminal: bool = False
    terminal_size: Terminal = Terminal()
    open_stdin: bool = False
    stdin_once: bool = False
    attach_stdin: bool = False
    attach_stdout: bool = True
    attach_stderr: bool = True
    stop_signal: str = "SIGTERM"
    stop_timeout_s: int | None = None
    init: bool = False
    read_only: bool = False
    tmpfs: dict[str, str] = {}
    mounts: tuple[MountPoint, ...] = ()
    shm_bytes: int = 64 << 20
    nano_cpus: int | None = None
    cpu_shares: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    memory_bytes: int | None = None
    memory_swap_bytes: int | None = None
    pids_limit: int | None = None
    disk_bytes: int | None = None
    verify: bool = False
    rlimits: tuple[Rlimit, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    privileged: bool = False
    no_new_privileges: bool = False
    sysctls: dict[str, str] = {}
    oom_score_adj: int = 0
    auto_remove: bool = False
    restart: RestartPolicy = RestartPolicy()
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    dns_options: tuple[str, ...] = ()
    network_mode: str = ""
    networks: tuple[NetworkWish, ...] = ()
    ports: tuple[PortBinding, ...] = ()
    exposed: tuple[str, ...] = ()
    publish_all: bool = False
    egress: Egress = Egress()
    log_max_bytes: int | None = None
    log_max_files: int | None = None
    platform: str = "linux/amd64"


class ExitStatus(Struct, frozen=True, kw_only=True):
    """How a container ended: the record a runtime leaves in the bundle (`exit.json`).

    `reason` is empty for an ordinary end of the process; otherwise the sentence for `inspect`'s
    State.Error. `stopped_by_user`: it ended because `stop` or `kill` asked for it.
    """

    code: int
    finished_at: datetime
    started_at: datetime | None = None
    out_of_memory: bool = False
    reason: str = ""
    stopped_by_user: bool = False


class VmSpec(Struct, frozen=True, kw_only=True):
    """What a VM is made of before it is anybody's; paths are absolute.

    `accelerator` is what the probe chose. `memory_mib` is all of its memory, `vm_uid` the user that QEMU runs as.
    What is behind its network devices comes from the keeper whose socket is in the directory `keeper`; "": nothing is.
    """

    kernel: str
    initramfs: str
    accelerator: Literal["kvm", "tcg"]
    qemu: str
    cpus: int
    memory_mib: int
    boot_timeout_s: float
    vm_uid: int | None
    run_dir: str
    keeper: str = ""


class DiskFiles(Struct, frozen=True, kw_only=True):
    """A disk on the host: `path` is its file, or the descriptor of one that is composed of `files`.

    Those are by the number of the descriptor set that the descriptor names them with.
    """

    path: str
    format: Literal["raw", "vmdk"] = "raw"
    files: dict[int, str] = {}


class VolumeMount(Struct, frozen=True, kw_only=True):
    """A volume that is a disk: it lies at `extent` on the disk of volumes, or on the image's, which nobody can write.

    `fills`: if it is empty, it gets what the image has at `target`.
    """

    target: str
    on: Literal["volumes", "image"]
    extent: Extent
    read_only: bool = False
    fills: bool = False


class Export(Struct, frozen=True, kw_only=True):
    """A directory or file of the host, by its absolute path, that the container finds at `target`.

    `fills`: a directory that is empty gets what the image has there.
    """

    path: str
    target: str
    read_only: bool = False
    fills: bool = False


class BundleSpec(VmSpec, frozen=True, kw_only=True):
    """`config.json` of a bundle: all that a runtime needs to start its container, and nothing else.

    Paths are absolute. `image` is the composed disk with the image's layers, `layers` are their places on it, bottom
    first, `trees` what verifies them, if anything does; `volumes` is the disk of the volumes that it may write: those
    that it reads only are on the image's. `interfaces` are those that it starts with, `resolvers` the nameservers that
    its networks offer, `host_gateway` is the address that `host-gateway` stands for in `--add-host`.
    """

    id: str
    name: str
    config: ContainerConfig
    bundle: str
    image: DiskFiles
    layers: tuple[Extent, ...]
    trees: tuple[HashTree, ...] = ()
    writable_disk: str | None
    volumes: DiskFiles | None = None
    volume_mounts: tuple[VolumeMount, ...] = ()
    exports: tuple[Export, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    resolvers: tuple[str, ...] = ()
    host_gateway: str = ""
    log_max_bytes: int
    log_max_files: int


class SpareSpec(VmSpec, frozen=True, kw_only=True):
    """A clone that is to be kept ready for whatever container comes: it rehearses with the files named here."""

    name: str
    stage_image: str
    stage_writable: str
