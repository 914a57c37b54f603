"""Debian's `docker-registry` on loopback: plain or over HTTPS, for everybody or for who has a password.

`authority` makes certificates with openssl, `password_line` a line of an htpasswd file with the C library's crypt.
"""

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from harness.checkout import program


@contextmanager
def running_registry(directory: Path, settings: Mapping[str, object] | None = None) -> Iterator[str]:
    """A registry with its files below `directory`; gives its address. `settings` are added to its configuration."""
    address = free_address()
    storage = directory / "storage"
    config: dict[str, object] = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(storage)}, "delete": {"enabled": True}},
        **(settings or {}),
    }
    http = config.get("http", {})
    assert isinstance(http, dict)
    config["http"] = {"addr": address, **http}
    # JSON is YAML.
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "registry.yml").write_text(json.dumps(config))
    command = [str(program("docker-registry")), "serve", str(directory / "registry.yml")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = list(takewhile(lambda line: "listening on" not in line, server.stderr))
            assert server.poll() is None, "".join(said)
            # It writes a line a request, and stops when nobody reads them.
            threading.Thread(target=server.stderr.read, daemon=True).start()
            yield address
        finally:
            server.kill()


def free_address() -> str:
    """An address on loopback where nobody listens at present."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def basic_auth(directory: Path, user: str, password: str) -> dict[str, object]:
    """Settings for a registry that lets in `user` alone."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "htpasswd").write_text(password_line(user, password))
    return {"auth": {"htpasswd": {"realm": "reef", "path": str(directory / "htpasswd")}}}


def password_line(user: str, password: str) -> str:
    """A line of an htpasswd file, with bcrypt."""
    library = ctypes.CDLL("libcrypt.so.1")
    library.crypt.restype = ctypes.c_char_p
    hashed = library.crypt(password.encode(), b"$2y$05$" + b"abcdefghijklmnopqrstuu")
    assert hashed.startswith(b"$2y$"), "this machine's libcrypt has no bcrypt"
    return f"{user}:{hashed.decode()}\n"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of our own, its files in `directory`."""

    directory: Path

    @property
    def certificate(self) -> Path:
        """What to trust."""
        return self.directory / "ca.crt"

    def issue(self, name: str, *, days: int = 2) -> tuple[Path, Path]:
        """A certificate for 127.0.0.1, and its key; `days` below zero gives one that has expired."""
        certificate, key, request = (self.directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        extensions = self.directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1\n")
        (self.directory / "index.txt").touch()
        # `ca` and not `x509 -req`: it alone takes a date of the past.
        past = ["-startdate", "20200101000000Z", "-enddate", "20200201000000Z"]
        (self.directory / "ca.cnf").write_text(_CONFIGURATION.format(directory=self.directory))
        files: list[str | Path] = ["-config", self.directory / "ca.cnf", "-in", request, "-out", certificate]
        options = [
            "-batch",
            "-create_serial",
            "-notext",
            "-md",
            "sha256",
            *(past if days < 0 else ["-days", str(days)]),
        ]
        _openssl("ca", *options, *files, "-extfile", extensions)
        return certificate, key


_CONFIGURATION = """\
[ca]
default_ca = ours
[ours]
dir = {directory}
new_certs_dir = {directory}
database = {directory}/index.txt
serial = {directory}/serial
certificate = {directory}/ca.crt
private_key = {directory}/ca.key
unique_subject = no
policy = any
[any]
commonName = supplied
"""


def authority(directory: Path) -> Authority:
    """Make an authority in `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    key, certificate = directory / "ca.key", directory / "ca.crt"
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate),
        *("-subj", "/CN=reef", "-days", "2"),
    )
    return Authority(directory)


def _openssl(*arguments: str | Path) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def skopeo(*arguments: str | Path) -> str:
    """Run skopeo, and return what it says."""
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
