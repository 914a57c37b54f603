"""The JSON that crosses the socket, as types: what we read of it, not all there is.

Only for the type checker: nothing imports this module when a command runs.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypedDict

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
Object: TypeAlias = "dict[str, Json]"
Query: TypeAlias = Mapping[str, str | int | bool | None] | Sequence[tuple[str, str | int | bool | None]]


class Port(TypedDict, total=False):
    """A published port."""

    IP: str
    PrivatePort: int
    PublicPort: int
    Type: str


class ContainerSummary(TypedDict, total=False):
    """One row of `GET /containers/json`; `Created` in seconds since the epoch, sizes in bytes."""

    Id: str
    Names: list[str]
    Image: str
    ImageID: str
    Command: str
    Created: int
    Ports: list[Port]
    SizeRw: int
    SizeRootFs: int
    Labels: dict[str, str]
    State: str
    Status: str
    Mounts: list[dict[str, str]]
    NetworkSettings: dict[str, dict[str, Json]]


class CreatedContainer(TypedDict):
    """`POST /containers/create`."""

    Id: str
    Warnings: list[str] | None


class State(TypedDict, total=False):
    """How a container stands."""

    Status: str
    Running: bool
    Paused: bool
    Restarting: bool
    ExitCode: int
    Error: str


class Volume(TypedDict, total=False):
    """One row of `GET /volumes`."""

    Name: str
    Driver: str
    Scope: str
    Mountpoint: str
    Labels: dict[str, str] | None
    UsageData: "VolumeUsage | None"


class Network(TypedDict, total=False):
    """One row of `GET /networks`."""

    Id: str
    Name: str
    Created: str
    Driver: str
    Scope: str
    EnableIPv4: bool
    EnableIPv6: bool
    Internal: bool
    Labels: dict[str, str] | None


class HostPort(TypedDict):
    """Where a port of a container is on the host."""

    HostIp: str
    HostPort: str


class NetworkSettings(TypedDict, total=False):
    """Of a container's `NetworkSettings`."""

    Ports: dict[str, list[HostPort] | None] | None


class ContainerSettings(TypedDict, total=False):
    """Of a container's `Config`."""

    Tty: bool
    OpenStdin: bool
    AttachStdin: bool


class Container(TypedDict, total=False):
    """`GET /containers/{id}/json`."""

    Id: str
    Name: str
    State: State
    Config: ContainerSettings
    HostConfig: dict[str, Json]
    NetworkSettings: NetworkSettings


class WaitError(TypedDict):
    """Why a wait could not be answered."""

    Message: str


class WaitResult(TypedDict, total=False):
    """`POST /containers/{id}/wait`."""

    StatusCode: int
    Error: WaitError | None


class ExecState(TypedDict, total=False):
    """`GET /exec/{id}/json`."""

    ID: str
    Running: bool
    ExitCode: int | None


class ProcessTable(TypedDict):
    """`GET /containers/{id}/top`."""

    Titles: list[str]
    Processes: list[list[str]] | None


class ImageSummary(TypedDict, total=False):
    """One row of `GET /images/json`."""

    Id: str
    RepoTags: list[str] | None
    RepoDigests: list[str] | None
    Created: int
    Size: int
    SharedSize: int
    Containers: int
    Labels: dict[str, str] | None


class HistoryStep(TypedDict, total=False):
    """One row of `GET /images/{name}/history`; seconds since the epoch, bytes."""

    Id: str
    Created: int
    CreatedBy: str
    Size: int
    Comment: str


class Removed(TypedDict, total=False):
    """One thing that `DELETE /images/{name}` did."""

    Untagged: str
    Deleted: str


class Pruned(TypedDict, total=False):
    """What a `prune` removed, of the kind that was asked for, and bytes."""

    ContainersDeleted: list[str] | None
    ImagesDeleted: list[Removed] | None
    VolumesDeleted: list[str] | None
    NetworksDeleted: list[str] | None
    SpaceReclaimed: int


class VolumeUsage(TypedDict, total=False):
    """How many containers have a volume, and its bytes."""

    RefCount: int
    Size: int


class CheckLine(TypedDict, total=False):
    """One line of `POST /atoll/check`: something wrong, or at the end how many of what there were."""

    Kind: str
    Name: str
    Problem: str
    Outcome: str
    Images: int
    Blobs: int
    Layers: int
    Disks: int
    Found: int
    Left: int


class DiskUsage(TypedDict):
    """`GET /system/df`; bytes."""

    LayersSize: int
    Images: list[ImageSummary] | None
    Containers: list[ContainerSummary] | None
    Volumes: list[Volume] | None


class Progress(TypedDict, total=False):
    """So many of so many bytes."""

    current: int
    total: int


class ProgressLine(TypedDict, total=False):
    """One line of the answer to a pull, a push, a load or an import."""

    id: str
    status: str
    stream: str
    progress: str
    progressDetail: Progress
    error: str
    errorDetail: dict[str, str]


class CpuUsage(TypedDict, total=False):
    """Nanoseconds of CPU used."""

    total_usage: int


class CpuStatistics(TypedDict, total=False):
    """CPU of the container and of the machine, in nanoseconds."""

    cpu_usage: CpuUsage
    system_cpu_usage: int
    online_cpus: int


class MemoryStatistics(TypedDict, total=False):
    """Memory in bytes."""

    usage: int
    limit: int
    stats: dict[str, int]


class BlockEntry(TypedDict, total=False):
    """Bytes of one kind of operation."""

    op: str
    value: int


class BlockStatistics(TypedDict, total=False):
    """Bytes of disk."""

    io_service_bytes_recursive: list[BlockEntry] | None


class NetworkStatistics(TypedDict, total=False):
    """Bytes of one interface."""

    rx_bytes: int
    tx_bytes: int


class PidStatistics(TypedDict, total=False):
    """Number of processes."""

    current: int


class Statistics(TypedDict, total=False):
    """`GET /containers/{id}/stats`: one line."""

    id: str
    name: str
    read: str
    preread: str
    cpu_stats: CpuStatistics
    precpu_stats: CpuStatistics
    memory_stats: MemoryStatistics
    blkio_stats: BlockStatistics
    networks: dict[str, NetworkStatistics]
    pids_stats: PidStatistics


class Phase(TypedDict):
    """A part of a start, in milliseconds since it was asked for."""

    Name: str
    StartMs: float
    EndMs: float


class Timings(TypedDict):
    """`GET /atoll/containers/{id}/timings`; `Kind` is `cold`, `clone` or `pool`."""

    Kind: str
    Phases: list[Phase]


class Template(TypedDict, total=False):
    """One row of `GET /atoll/templates`; times as RFC 3339."""

    ID: str
    Kernel: str
    Cpus: int
    MemoryMib: int
    Accelerator: str
    SizeBytes: int
    CreatedAt: str
    LastUsedAt: str | None
    Current: bool
    Qemu: str


class Kernel(TypedDict, total=False):
    """One row of `GET /atoll/kernels`."""

    Version: str
    Source: str
    Current: bool
    Digest: str


class PathStat(TypedDict):
    """What a path of a container is; `mode` is Go's `FileMode`."""

    name: str
    size: int
    mode: int
    mtime: str
    linkTarget: str


class Change(TypedDict):
    """One row of `GET /containers/{id}/changes`; `Kind` 0 is changed, 1 added, 2 deleted."""

    Path: str
    Kind: int
