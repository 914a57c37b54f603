"""Where one engine keeps things.

As root: state in /var/lib/atoll, socket in /run/atoll, settings in /etc/atoll; otherwise the XDG directories.
`ATOLL_ROOT` and `ATOLL_SOCKET` override. The client imports this module: it must stay light.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The places of one engine: `root` holds state, `run` sockets and what a reboot forgets."""

    root: Path
    run: Path
    socket: Path
    settings_file: Path

    @property
    def database(self) -> Path:
        """The engine's SQLite file."""
        return self.root / "atoll.db"

    @property
    def lock(self) -> Path:
        """Locked by the engine that owns `root`."""
        return self.root / "engine.lock"

    @property
    def containers(self) -> Path:
        """One bundle directory a container, by full id."""
        return self.root / "containers"

    @property
    def content(self) -> Path:
        """OCI blobs by digest, layers as squashfs, composed disks."""
        return self.root / "content"

    @property
    def kernels(self) -> Path:
        """Kernels with their modules, and the initramfs made for each."""
        return self.root / "kernels"

    @property
    def templates(self) -> Path:
        """Templates, and what VMs rehearse with."""
        return self.root / "templates"

    @property
    def spares(self) -> Path:
        """What belongs to VMs that are kept ready and are no container's yet."""
        return self.root / "spares"

    @property
    def volumes(self) -> Path:
        """One directory a volume, by name."""
        return self.root / "volumes"

    @property
    def engine_log(self) -> Path:
        """What the engine has to say; containers' output is in their bundles."""
        return self.root / "engine.log"

    @property
    def networks(self) -> Path:
        """Where the keeper and the segments of networks listen."""
        return self.run / "net"

    def bundle(self, container_id: str) -> Path:
        """The directory of one container."""
        return self.containers / container_id

    def run_dir(self, container_id: str) -> Path:
        """Where a container's runtime listens; short, for a unix socket's path has at most 108 bytes."""
        return self.run / container_id[:12]


def paths() -> Paths:
    """The paths of this user's engine, from the environment; creates nothing."""
    environment = os.environ
    if os.geteuid() == 0:
        root, run, settings = Path("/var/lib/atoll"), Path("/run/atoll"), Path("/etc/atoll/atoll.toml")
    else:
        home = Path(environment.get("HOME", "/"))
        root = Path(environment.get("XDG_DATA_HOME") or home / ".local/share") / "atoll"
        run = Path(environment.get("XDG_RUNTIME_DIR") or root / "run") / "atoll"
        settings = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "atoll/atoll.toml"
    if environment.get("ATOLL_ROOT"):
        root = Path(environment["ATOLL_ROOT"]).absolute()
        run = root / "run"
        settings = root / "atoll.toml"
    socket = run / "atoll.sock"
    if environment.get("ATOLL_SOCKET"):
        socket = Path(environment["ATOLL_SOCKET"]).absolute()
    return Paths(root=root, run=run, socket=socket, settings_file=settings)
