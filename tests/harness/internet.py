"""A fake internet for tests: a host in a network namespace of its own, and all that it can reach.

`outside()` makes two namespaces: the *host*'s, in which an engine under test and its clients run, and the
*internet*'s at the other end of its only cable, with `internet_services` in it. What is sent to an address that nobody
has ends there. Both, and every process in them, are gone at the end.

    the machine            203.0.113.2, 2001:db8::2         203.0.113.1, 2001:db8::1
    (untouched)            host: engine, docker, curl  ----  internet: 198.51.100.80, 2001:db8:80::80, ...
"""

import contextlib
import fcntl
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.checkout import BUILD, CHECKOUT
from harness.command import Command
from harness.internet_services import ADDRESSES, RESOLVER
from harness.process import Process

HOST = ("203.0.113.2", "2001:db8::2")
PEER = ("203.0.113.1", "2001:db8::1")
"""The internet's end of the cable."""
UNPRIVILEGED_UID = 12345
_PREFIXES = ("test-host-", "test-internet-")
_TUN = Path("/dev/net/tun")
_TUN_USERS, _TUN_LOCK = Path("/tmp/atoll-tests-tun.users"), Path("/tmp/atoll-tests-tun.lock")
_NAMESPACES = Path("/run/netns")


@dataclass(frozen=True)
class Outside:
    """The host that engines under test run on, and the internet that it is connected to."""

    host: str
    internet: str
    holder: int
    log: Path

    def within(self, uid: int = 0) -> tuple[str, ...]:
        """What a command line begins with that is to run on the host as `uid`."""
        enter = ("nsenter", f"--net={_NAMESPACES / self.host}", f"--mount=/proc/{self.holder}/ns/mnt", "--")
        if uid == 0:
            return enter
        return (*enter, "setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--")

    def on_host(self, *program: str) -> Command:
        """A command that runs on the host as root: `outside.on_host("curl")("-s", "http://198.51.100.80")`."""
        return Command((*self.within(), *program))

    def on_internet(self, *program: str) -> Command:
        """A command that runs in the internet: what comes from there to the host comes from 203.0.113.1."""
        return Command(("ip", "netns", "exec", self.internet, *program))

    def visits(self) -> list[str]:
        """Who has come to which service so far: `web 203.0.113.2`."""
        return self.log.read_text().splitlines()[1:]

    def processes(self) -> list[Process]:
        """Every process in the host's network namespace, but the one that holds it."""
        namespace = (_NAMESPACES / self.host).stat().st_ino
        found = []
        for directory in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ProcessLookupError):
                if directory.name.isdigit() and (directory / "ns" / "net").stat().st_ino == namespace:
                    found.append(Process.of(int(directory.name)))
        return [process for process in found if process.pid != self.holder and process.is_alive]

    def traces(self) -> list[str]:
        """What networks may leave on this host, one line each: interfaces, routes, addresses, nftables, namespaces."""
        lists = (("ip", "-o", "-br", "link"), ("ip", "-br", "address"), ("ip", "route"), ("ip", "-6", "route"))
        found = [line for words in lists for line in self.on_host(*words).ok().splitlines()]
        found += self.on_host("nft", "list", "ruleset").ok().splitlines()
        return [" ".join(line.split()) for line in found] + namespaces()


def namespaces() -> list[str]:
    """The machine's named network namespaces that are Atoll's, one line each; those of tests have other names."""
    named = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout.splitlines()
    names = sorted(line.split()[0] for line in named)
    return [f"namespace {name}" for name in names if name.startswith("atoll")]


@contextmanager
def outside(directory: Path, *, forwards: bool = True) -> Iterator[Outside]:
    """Make both namespaces and what is in them; `directory` keeps the log, `forwards`: the host is a router as well.

    The host's namespace has its own /etc/resolv.conf, which names the internet's resolver.
    """
    name = secrets.token_hex(3)
    with ExitStack() as stack:
        host, internet = (stack.enter_context(_namespace(f"{prefix}{name}")) for prefix in _PREFIXES)
        _connect(host, internet, forwards)
        log = directory / "internet.log"
        stack.enter_context(_services(internet, log))
        resolv_conf = directory / "resolv.conf"
        resolv_conf.write_text(f"nameserver {RESOLVER}\n")
        resolv_conf.chmod(0o644)
        directory.chmod(0o755)
        holder = stack.enter_context(_holder(host, resolv_conf))
        yield Outside(host, internet, holder, log)


@contextmanager
def tun_for_everybody() -> Iterator[None]:
    """Let users other than root open /dev/net/tun, as the udev rule in docs/networking.md does.

    Tests run side by side: the mode is put back by the last of those who need it.
    """
    with _TUN_USERS.open("a+") as users:
        with _one_at_a_time():
            mode = stat.S_IMODE(_TUN.stat().st_mode)
            if mode & 0o006 != 0o006:
                print(
                    f"{_TUN} has mode {mode:04o}: relaxed to 0666 for the tests without root, and put back after them"
                )
                users.truncate(0)
                users.write(f"{mode:o}")
                users.flush()
                _TUN.chmod(0o666)
            fcntl.flock(users, fcntl.LOCK_SH)
        try:
            yield
        finally:
            with _one_at_a_time(), suppress(BlockingIOError):  # somebody else needs it
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                users.seek(0)
                if before := users.read():
                    _TUN.chmod(int(before, 8))
                    users.truncate(0)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    with _TUN_LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _run("ip", "netns", "delete", name)


def _connect(host: str, internet: str, forwards: bool) -> None:
    _run("ip", "-n", host, "link", "add", "wan0", "type", "veth", "peer", "name", "host0", "netns", internet)
    for namespace, device, addresses in ((host, "wan0", HOST), (internet, "host0", PEER)):
        _run("ip", "-n", namespace, "address", "add", f"{addresses[0]}/24", "dev", device)
        _run("ip", "-n", namespace, "address", "add", f"{addresses[1]}/64", "dev", device, "nodad")
        _run("ip", "-n", namespace, "link", "set", device, "up")
    _run("ip", "-n", host, "route", "add", "default", "via", PEER[0])
    _run("ip", "-n", host, "route", "add", "default", "via", PEER[1])
    for address in ADDRESSES:
        _run("ip", "-n", internet, "address", "add", address, "dev", "lo", "nodad")
    settings = {"net.ipv4.ip_forward": forwards, "net.ipv6.conf.all.forwarding": forwards}
    for key, value in settings.items():
        _run("ip", "netns", "exec", host, "sysctl", "-qw", f"{key}={int(value)}")


@contextmanager
def _services(internet: str, log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["ip", "netns", "exec", internet, sys.executable, "-m", "harness.internet_services"],
            cwd=CHECKOUT / "tests",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, log)
        yield
    finally:
        process.kill()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    while not log.read_text().startswith("ready"):
        try:
            code = process.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(f"the fake internet ended with {code}: {log.read_text()[-1000:]}")


@contextmanager
def _holder(host: str, resolv_conf: Path) -> Iterator[int]:
    """A process whose mounts are those of the host: its own resolver, and a checkout that every user can read."""
    script = [f"mount --bind {resolv_conf} /etc/resolv.conf"]
    # /sys as the namespace sees it; with its control groups, which a new one would hide.
    script += ["mount --rbind /sys/fs/cgroup /mnt", "mount -t sysfs none /sys", "mount --rbind /mnt /sys/fs/cgroup"]
    for directory, kept in _closed_directories((CHECKOUT, BUILD.resolve(), Path(sys.base_prefix))).items():
        script += _opened(directory, kept)
    script += ["echo ready", "exec sleep infinity"]
    line = ["nsenter", f"--net={_NAMESPACES / host}", "unshare", "--mount", "--propagation", "private"]
    with subprocess.Popen(
        [*line, "sh", "-ec", "\n".join(script)],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"ready\n", "the host's mounts cannot be made"
            yield holder.pid
        finally:
            holder.kill()


def _closed_directories(needed: Sequence[Path]) -> dict[Path, list[Path]]:
    """Directories that only their owner may pass through, and what of `needed` is below each."""
    found: dict[Path, list[Path]] = {}
    for path in needed:
        for parent in reversed(path.parents):
            if not parent.stat().st_mode & stat.S_IXOTH:
                found.setdefault(parent, []).append(path)
                break
    return found


def _opened(directory: Path, kept: Sequence[Path]) -> list[str]:
    """The shell commands that put an open directory in the place of `directory`, with nothing in it but `kept`."""
    lines = [f"mount --rbind {directory} /mnt", f"mount -t tmpfs -o mode=755 none {directory}"]
    for path in kept:
        lines += [f"mkdir -p {path}", f"mount --rbind /mnt/{path.relative_to(directory)} {path}"]
    return [*lines, "umount -l /mnt"]


def _run(*line: str) -> None:
    subprocess.run(line, check=True, capture_output=True)
