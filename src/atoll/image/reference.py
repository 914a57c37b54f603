"""Image references: what a user may type for an image, and what it means.

`debian` means `docker.io/library/debian:latest`, `localhost:5000/reef` names a registry. The grammar and the
normalisation are those of https://github.com/distribution/reference; the familiar name is what users are shown.
"""

import ipaddress
import re
from dataclasses import dataclass, replace

from atoll.errors import InvalidRequest

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_NAME_BYTES = 255
_HOST_PART = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_PATH_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_IDENTIFIER = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True)
class Reference:
    """A normalised reference; `domain` is the registry, `path` the repository in it."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Read and normalise `text`; raises `InvalidRequest` naming the part that is wrong. No tag is added."""
        rest, at, digest = text.partition("@")
        if at and not _DIGEST.fullmatch(digest):
            raise _wrong(text, f"{digest!r} is not a digest: write sha256: and 64 hexadecimal digits")
        name, tag = rest, None
        colon = rest.rfind(":")
        if colon > rest.rfind("/"):
            name, tag = rest[:colon], rest[colon + 1 :]
            if not _TAG.fullmatch(tag):
                raise _wrong(text, f"{tag!r} is not a tag: use up to 128 letters, digits, '_', '.' and '-'")
        if _IDENTIFIER.fullmatch(name):
            raise _wrong(text, "64 hexadecimal digits are an image's id, not a name")
        domain, path = _split_domain(name)
        if not _DOMAIN.fullmatch(domain):
            raise _wrong(text, f"{domain!r} is not a registry's host name")
        if path != path.lower():
            raise _wrong(text, "repository name must be lowercase")
        if not _PATH.fullmatch(path):
            raise _wrong(text, "a name is lower-case letters and digits, separated by '.', '_', '-' and '/'")
        if len(domain) + 1 + len(path) > _NAME_BYTES:
            raise _wrong(text, f"the name is longer than {_NAME_BYTES} characters")
        return cls(domain, path, tag, digest if at else None)

    @property
    def repository(self) -> str:
        """The full name without tag and digest: `docker.io/library/debian`."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_repository(self) -> str:
        """The short name that users are shown: `debian`."""
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        short = self.path.removeprefix("library/")
        short = short if "/" not in short else self.path
        # docker.io/reef.io/a cannot be short: its path would be read as a registry, or as an id.
        is_clear = _split_domain(short) == (self.domain, self.path) and not _IDENTIFIER.fullmatch(short)
        return short if is_clear else self.repository

    @property
    def familiar(self) -> str:
        """The reference as users are shown it: `debian:bookworm`."""
        return self.familiar_repository + self._suffix

    def tagged(self) -> "Reference":
        """The same with the tag `latest`, when there is neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag=DEFAULT_TAG)

    def __str__(self) -> str:
        return self.repository + self._suffix

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def registry_domain(address: str) -> str:
    """The registry that users and their configuration call `address`: a host, or an address with or without a scheme.

    Nothing means the default one. Raises `InvalidRequest`.
    """
    host = re.sub(r"^https?://", "", address).partition("/")[0] or DEFAULT_DOMAIN
    if not _DOMAIN.fullmatch(host):
        raise InvalidRequest(f"{address!r} is no registry's address: write host or host:port")
    return DEFAULT_DOMAIN if host in (f"index.{DEFAULT_DOMAIN}", f"registry-1.{DEFAULT_DOMAIN}") else host


def is_loopback(address: str) -> bool:
    """Whether `host` or `host:port` is this machine; an IPv6 address is in brackets."""
    host = address.rpartition(":")[0] if re.search(r":\d+$", address) else address
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_domain(name: str) -> tuple[str, str]:
    """Registry and path; a first part without '.', ':' or capitals is part of the path, unless it is localhost."""
    first, slash, rest = name.partition("/")
    if not slash or (not re.search(r"[.:]", first) and first != "localhost" and first == first.lower()):
        first, rest = DEFAULT_DOMAIN, name
    if first == f"index.{DEFAULT_DOMAIN}":
        first = DEFAULT_DOMAIN
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest


def _wrong(text: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"invalid reference format: {text!r}: {why}")
