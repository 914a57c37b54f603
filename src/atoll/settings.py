"""Where Atoll keeps things, and the settings file.

Paths: as root, state in /var/lib/atoll and the socket in /run/atoll; otherwise the XDG directories.
`ATOLL_ROOT` and `ATOLL_SOCKET` override both. The client imports this module: it must stay light.
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

    @property
    def database(self) -> Path:
        return self.root / "atoll.db"

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
        return self.root / "kernels"

    @property
    def engine_log(self) -> Path:
        return self.root / "engine.log"

    @property
    def settings_file(self) -> Path:
        return self.root / "atoll.toml"


def paths() -> Paths:
    """The paths of this user's engine, from the environment; creates nothing."""
    environment = os.environ
    if os.geteuid() == 0:
        root, run = Path("/var/lib/atoll"), Path("/run/atoll")
    else:
        home = Path(environment.get("HOME", "/"))
        root = Path(environment.get("XDG_DATA_HOME") or home / ".local/share") / "atoll"
        run = Path(environment.get("XDG_RUNTIME_DIR") or root / "run") / "atoll"
    if "ATOLL_ROOT" in environment:
        root = Path(environment["ATOLL_ROOT"]).absolute()
        run = root / "run"
    socket = run / "atoll.sock"
    if "ATOLL_SOCKET" in environment:
        socket = Path(environment["ATOLL_SOCKET"]).absolute()
    return Paths(root=root, run=run, socket=socket)
