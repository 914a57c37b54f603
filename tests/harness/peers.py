"""Debian's Docker and Podman beside us, each in a private directory that vanishes.

Nothing of the machine's own Docker or Podman is used or changed but the programs: a dockerd of its own on a private
socket, without networks, and the `podman` command with a root of its own. Containers are in a control group of the
bench's, so that it can be removed. `scripts/install-peers` installs both, `scripts/install-packages test` what keeps
images; nothing here does.

`dockerd` and `podman` have the image busybox that we have and run containers, for benches; `docker_images` and
`podman_images` only keep images, and ask less of the machine.
"""

import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.checkout import TOOLS, program
from harness.command import Command
from harness.images import BUSYBOX_CHANGES, busybox_root
from harness.process import processes_that_mention

IMAGE = "busybox"
_CONTROL_GROUPS = Path("/sys/fs/cgroup")
_HYBRID = _CONTROL_GROUPS / "unified"
_START_S = 30.0
_STOP_S = 20.0
_PREFIX = "atoll-peer-"


class PeerUnavailable(Exception):
    """Docker or Podman cannot be measured here; the message says why, and what to do."""


@contextmanager
def dockerd() -> Iterator[Command]:
    """A dockerd with the image busybox, and the `docker` command that talks to it.

    Raises `PeerUnavailable` when there is none, or it does not start here.
    """
    with _home() as home, _docker(home, "overlay2") as docker:
        _import(docker, home)
        yield docker


@contextmanager
def docker_images() -> Iterator[Command]:
    """The `docker` command with a dockerd without images; raises `PeerUnavailable` as `dockerd` does."""
    # Of all storage drivers this one works on every file system.
    with _home() as home, _docker(home, "vfs") as docker:
        yield docker


@contextmanager
def _docker(home: Path, storage_driver: str) -> Iterator[Command]:
    daemon = _installed("dockerd", "Docker")
    socket = home / "docker.sock"
    with _daemon(daemon, home, socket, storage_driver):
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        yield Command(
            (os.fspath(program("docker")),),
            {**inherited, "DOCKER_HOST": f"unix://{socket}", "DOCKER_CONFIG": os.fspath(home / "config")},
        )


@contextmanager
def podman() -> Iterator[tuple[Command, tuple[str, ...]]]:
    """The `podman` command with a root of its own and the image busybox, and the flags that its `run` needs here.

    Raises `PeerUnavailable` when there is none, or it does not work here.
    """
    with _home() as home, _mounts_for_crun() as prefix:
        command = _podman(home, "overlay", prefix)
        _import(command, home)
        flags = ("--cgroup-parent", f"/{home.name}", *_limits())
        tried = command("run", "--rm", "--network", "none", *flags, IMAGE, "true")
        if tried.code != 0:
            raise PeerUnavailable(f"podman run does not work here: {tried.stderr.strip()}")
        yield command, flags


@contextmanager
def podman_images() -> Iterator[Command]:
    """The `podman` command with a root of its own without images; raises `PeerUnavailable` when there is none."""
    with _home() as home:
        yield _podman(home, "vfs", ())


def _podman(home: Path, storage_driver: str, prefix: tuple[str, ...]) -> Command:
    found = _installed("podman", "Podman")
    return Command(
        (
            *(*prefix, found, "--root", f"{home}/root", "--runroot", f"{home}/run", "--tmpdir", f"{home}/tmp"),
            *("--storage-driver", storage_driver, "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
        ),
        _environment(),
    )


@contextmanager
def _mounts_for_crun() -> Iterator[tuple[str, ...]]:
    """What to put before a command so that crun runs: it refuses control groups of version 1 with some of version 2.

    Such a host gets a mount namespace without the latter; entering it takes a millisecond or two.
    """
    if not _HYBRID.is_dir():
        yield ()
        return
    script = f"umount {_HYBRID} && echo ready && exec sleep infinity"
    line = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True) as holder:
        try:
            assert holder.stdout is not None
            holder.stdout.readline()
            yield ("nsenter", f"--mount=/proc/{holder.pid}/ns/mnt")
        finally:
            holder.kill()


def _installed(name: str, product: str) -> str:
    found = shutil.which(name, path=_environment()["PATH"])
    if found is None:
        raise PeerUnavailable(f"{product} is not installed: scripts/install-peers does that (as root)")
    return found


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin:{TOOLS}"}


def _limits() -> tuple[str, ...]:
    """Podman raises two limits of root's containers; a sandbox that lets nobody do so is told lower ones."""
    flags: list[str] = []
    for name, kind, most in (("nofile", resource.RLIMIT_NOFILE, 1 << 20), ("nproc", resource.RLIMIT_NPROC, 1 << 15)):
        _, hard = resource.getrlimit(kind)
        if hard != resource.RLIM_INFINITY:
            flags += ["--ulimit", f"{name}={min(hard, most)}:{min(hard, most)}"]
    return tuple(flags)


def _import(command: Command, home: Path) -> None:
    tar = home / "busybox.tar"
    tar.write_bytes(busybox_root())
    changes = [word for change in BUSYBOX_CHANGES for word in ("--change", change)]
    done = command("import", *changes, tar, IMAGE)
    if done.code != 0:
        raise PeerUnavailable(f"the image cannot be imported: {done}")


@contextmanager
def _daemon(program: str, home: Path, socket: Path, storage_driver: str) -> Iterator[None]:
    (home / "daemon.json").write_text("{}")  # and not /etc/docker's
    arguments: list[str | Path] = [
        *("--config-file", home / "daemon.json", "--host", f"unix://{socket}", "--group", "root"),
        *("--data-root", home / "data", "--exec-root", home / "exec", "--pidfile", home / "pid"),
        *("--storage-driver", storage_driver, "--exec-opt", "native.cgroupdriver=cgroupfs"),
        *("--cgroup-parent", f"/{home.name}"),
        *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    ]
    key = Path("/etc/docker/key.json")  # an identity that older ones make whatever they are told
    had_key = key.exists()
    log = home / "log"
    with log.open("wb") as file:
        # A session of its own: Ctrl-C is for the bench, which then ends the daemon in its turn.
        daemon = subprocess.Popen(
            [program, *arguments],
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        _wait_until_listening(daemon, socket, log)
        yield
    finally:
        _end(daemon)
        if not had_key:
            key.unlink(missing_ok=True)


def _wait_until_listening(daemon: subprocess.Popen[bytes], socket: Path, log: Path) -> None:
    docker = Command((os.fspath(program("docker")), "--host", f"unix://{socket}"))
    deadline = time.monotonic() + _START_S
    while docker("version").code != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            last = log.read_text(errors="replace").splitlines()[-3:]
            raise PeerUnavailable("dockerd does not start here: " + " / ".join(last))
        time.sleep(0.1)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.send_signal(signal.SIGTERM)
    try:
        daemon.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        # With the containerd that it has started, in its session.
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()


@contextmanager
def _home() -> Iterator[Path]:
    """A directory whose name is also that of a control group; processes, mounts and groups of both end with it."""
    home = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
    try:
        yield home
    finally:
        # Podman's conmon ends, and cleans up, a moment after the command.
        for process in processes_that_mention(os.fspath(home)):
            process.wait(_STOP_S)
        _unmount_below(home)
        _remove_control_groups(home.name)
        shutil.rmtree(home)


def _unmount_below(directory: Path) -> None:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed(points):
        if point.startswith(f"{directory}/"):
            subprocess.run(["umount", "--lazy", point], check=True)


def _remove_control_groups(name: str) -> None:
    roots = [root for root in (_CONTROL_GROUPS / name, *_CONTROL_GROUPS.glob(f"*/{name}")) if root.exists()]
    deadline = time.monotonic() + _STOP_S
    for root in roots:
        for group in reversed([Path(directory) for directory, _, _ in os.walk(root)]):
            # Dead processes keep it until they are reaped, by whoever is process 1 here.
            while not _removed(group) and time.monotonic() < deadline:
                time.sleep(0.05)


def _removed(group: Path) -> bool:
    with suppress(OSError):
        group.rmdir()
    return not group.exists()
