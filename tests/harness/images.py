"""The images that tests run: busybox, made here in a moment, and Debian, made by `mmdebstrap` once a checkout."""

import io
import os
import subprocess
import tarfile
from pathlib import Path

from harness.checkout import BUILD, program, script

BUSYBOX_CHANGES = ('CMD ["sh"]', "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
_PASSWD = (
    "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\nsailor:x:1000:1000::/home:/bin/sh\n"
)
_GROUP = "root:x:0:\naudio:x:29:sailor\nstaff:x:50:\nsailor:x:1000:\nnogroup:x:65534:\n"


def busybox_root() -> bytes:
    """A root filesystem tar: Debian's static busybox, a link for each applet, the users root, nobody and sailor."""
    busybox = program("busybox")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, mode in _DIRECTORIES.items():
            directory = tarfile.TarInfo(name)
            directory.type, directory.mode = tarfile.DIRTYPE, mode
            tar.addfile(directory)
        _add_file(tar, "bin/busybox", busybox.read_bytes(), mode=0o755)
        _add_file(tar, "etc/passwd", _PASSWD.encode())
        _add_file(tar, "etc/group", _GROUP.encode())
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return buffer.getvalue()


def debian_root() -> Path:
    """The tar of a Debian 12 root filesystem, made from this machine's own mirror when it is not there yet."""
    tar = Path(os.environ.get("ATOLL_TEST_DEBIAN", BUILD / "debian-bookworm.tar"))
    if not tar.exists():
        subprocess.run([script("make-debian-image"), tar], check=True)
    return tar


def postgresql_root() -> Path:
    """The tar of a Debian 12 with PostgreSQL, made as `debian_root` is."""
    tar = BUILD / "postgresql-bookworm.tar"
    if not tar.exists():
        subprocess.run([script("make-debian-image"), tar, "postgresql"], check=True)
    return tar


def nginx_root() -> Path:
    """The tar of a Debian 12 with nginx, made as `debian_root` is."""
    tar = BUILD / "nginx-bookworm.tar"
    if not tar.exists():
        subprocess.run([script("make-debian-image"), tar, "nginx-light"], check=True)
    return tar


def probe_root(probe: Path) -> bytes:
    """The root filesystem of busybox, and /bin/probe."""
    archive = io.BytesIO(busybox_root())
    with tarfile.open(fileobj=archive, mode="a", format=tarfile.PAX_FORMAT) as tar:
        _add_file(tar, "bin/probe", probe.read_bytes(), mode=0o755)
    return archive.getvalue()


def build_probe(directory: Path) -> Path:
    """The program of `probe.c`, static."""
    built = directory / "probe"
    source = Path(__file__).parent / "probe.c"
    subprocess.run([program("cc"), "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", built, source], check=True)
    return built


_DIRECTORIES = {
    **dict.fromkeys(["bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var"], 0o755),
    "root": 0o700,
    "tmp": 0o1777,
}


def _add_file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(content)
    tar.addfile(entry, io.BytesIO(content))
