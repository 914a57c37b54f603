"""Where a registry is spoken to, and how: addresses, plain HTTP or HTTPS, mirrors."""

import asyncio
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from yarl import URL

from atoll.errors import InvalidRequest
from atoll.image.reference import DEFAULT_DOMAIN, is_loopback
from atoll.image.registry.certificates import DOCKERS_CERTIFICATES, has_certificates, tls_context
from atoll.image.registry.patience import Patience


class Scheme(Enum):
    """How to speak to a registry; `AUTO` is HTTPS, or plain HTTP where that is allowed and there is no HTTPS."""

    AUTO = "auto"
    HTTP = "http"
    HTTPS = "https"

    @classmethod
    def parse(cls, text: str) -> "Scheme":
        """Read what a user wrote, nothing meaning `AUTO`; raises `InvalidRequest`."""
        try:
            return cls(text or "auto")
        except ValueError:
            raise InvalidRequest(f"scheme {text!r} is none: write http, https or auto") from None


@dataclass(frozen=True)
class Registries:
    """What an engine knows about registries in general."""

    insecure: frozenset[str] = frozenset()
    """`host[:port]` of those that may be spoken to over plain HTTP; loopback always may."""
    mirrors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By registry: where to look first, `host[:port]` or an address that begins with http:// or https://."""
    certificates: tuple[Path, ...] = (DOCKERS_CERTIFICATES,)
    """Directories in the shape of /etc/docker/certs.d."""
    patience: Patience = field(default_factory=Patience)


DEFAULT_REGISTRIES = Registries()


@dataclass(frozen=True)
class Endpoint:
    """One registry's address; `host` is what it is called in messages, `base` ends in `/v2/`."""

    host: str
    base: URL
    tls: ssl.SSLContext | bool = True

    @property
    def is_plain(self) -> bool:
        """Whether nothing that is sent there is hidden from others."""
        return self.base.scheme == "http"

    @property
    def is_local(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.base.authority)


async def endpoint_of(domain: str, registries: Registries, scheme: Scheme = Scheme.AUTO) -> Endpoint:
    """The registry called `domain`; raises `InvalidRequest` for certificates that cannot be used."""
    # The registry of the default domain has always been on another host than its name says.
    address = f"registry-1.{DEFAULT_DOMAIN}" if domain == DEFAULT_DOMAIN else domain
    return await _endpoint(domain, address, "/v2/", registries, scheme)


async def endpoints_of(domain: str, registries: Registries, scheme: Scheme = Scheme.AUTO) -> list[Endpoint]:
    """Its mirrors in the order of the settings, then the registry itself."""
    found = [await _mirror(text, registries) for text in registries.mirrors.get(domain, ())]
    return [*found, await endpoint_of(domain, registries, scheme)]


async def _mirror(text: str, registries: Registries) -> Endpoint:
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "auto", text
    address, _, prefix = rest.strip("/").partition("/")
    path = f"/{prefix}/v2/" if prefix else "/v2/"
    return await _endpoint(address, address, path, registries, Scheme.parse(scheme))


async def _endpoint(host: str, address: str, path: str, registries: Registries, scheme: Scheme) -> Endpoint:
    try:
        secure, plain = URL(f"https://{address}{path}"), URL(f"http://{address}{path}")
        if not secure.host:
            raise ValueError
    except ValueError as error:
        raise InvalidRequest(f"{address!r} is no registry's address: write host or host:port") from error
    if scheme is Scheme.HTTP or (scheme is Scheme.AUTO and await _is_plain(host, secure, registries)):
        return Endpoint(host, plain)
    tls = await asyncio.to_thread(tls_context, host, registries.certificates)
    return Endpoint(host, secure, tls)


async def _is_plain(host: str, secure: URL, registries: Registries) -> bool:
    """Whether plain HTTP is allowed there and HTTPS not spoken: one attempt to shake hands tells."""
    if not (is_loopback(host) or host in registries.insecure) or has_certificates(host, registries.certificates):
        return False
    # What it says it is does not matter yet: that it can be trusted is checked when it is used.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(registries.patience.connect_s):
            _, writer = await asyncio.open_connection(secure.host, secure.port, ssl=context)
    except (OSError, TimeoutError):
        return True
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return False
