"""Whom we trust over HTTPS, and who we are there: `certs.d/<host[:port]>/`, as Docker has it.

`*.crt` are authorities, trusted besides the system's; `NAME.cert` and `NAME.key` are a certificate of ours.
https://docs.docker.com/engine/security/certificates/
"""

import ssl
from collections.abc import Iterable
from pathlib import Path

from atoll.errors import InvalidRequest

DOCKERS_CERTIFICATES = Path("/etc/docker/certs.d")


def has_certificates(host: str, directories: Iterable[Path]) -> bool:
    """Whether any of `directories` says something about `host` (`host[:port]`)."""
    return any((directory / host).is_dir() for directory in directories)


def tls_context(host: str, directories: Iterable[Path]) -> ssl.SSLContext | bool:
    """What to verify `host` with: the system's authorities and its own; True for the system's alone.

    Blocks on the disk. Raises `InvalidRequest` naming a file that is missing or cannot be used.
    """
    found = [directory / host for directory in directories if (directory / host).is_dir()]
    if not found:
        return True
    context = ssl.create_default_context()
    for directory in found:
        for file in sorted(directory.iterdir()):
            try:
                _use(context, file)
            except (OSError, ssl.SSLError) as error:
                raise InvalidRequest(f"certificate {file} cannot be used: {error}") from error
    return context


def _use(context: ssl.SSLContext, file: Path) -> None:
    if file.suffix == ".crt":
        context.load_verify_locations(file)
    elif file.suffix == ".cert":
        key = file.with_suffix(".key")
        if not key.exists():
            raise InvalidRequest(
                f"missing key {key} for client certificate {file}: note that authorities' files must end in .crt"
            )
        context.load_cert_chain(file, key)
    elif file.suffix == ".key" and not file.with_suffix(".cert").exists():
        raise InvalidRequest(f"missing client certificate {file.with_suffix('.cert')} for key {file}")
