"""Who may use a registry, and why it is to be trusted: passwords, and certificates made with openssl."""

import ctypes
import subprocess
from dataclasses import dataclass
from pathlib import Path


def basic_auth(directory: Path, user: str, password: str) -> dict[str, dict[str, object]]:
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
