"""An anonymous client of one repository in a registry: OCI distribution-spec 1.1, pulling.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md; tokens as in
https://distribution.github.io/distribution/spec/auth/token/. Redirects are followed by hand, so that a token goes to
nobody but the registry and nobody is led from HTTPS to HTTP.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import aiohttp
import msgspec
from yarl import URL

from atoll.errors import NotFound, RegistryFailed
from atoll.image.blobs import digest_of
from atoll.image.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from atoll.image.reference import DEFAULT_DOMAIN, Reference

_ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
_MOST_REDIRECTS = 5
_TRIES = 4
_MOST_PAUSE_S = 30.0
_CHUNK = 256 << 10
_MOST_TOKEN_BYTES = 1 << 20
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=15, sock_read=30)
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_BUSY = frozenset({408, 429, 500, 502, 503, 504})
_CHALLENGE = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class _Interrupted(Exception):
    """The exchange failed in a way that may pass; `pause_s` is what the registry asked for."""

    def __init__(self, reason: str, pause_s: float | None = None) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""


class Repository:
    """What `reference` names, over a session that `open_repository` made."""

    def __init__(self, reference: Reference, session: aiohttp.ClientSession, *, is_plain: bool) -> None:
        host = f"registry-1.{DEFAULT_DOMAIN}" if reference.domain == DEFAULT_DOMAIN else reference.domain
        self._name = reference.familiar_repository
        self._host = reference.domain
        self._path = reference.path
        self._session = session
        self._is_plain = is_plain
        self._base = URL(f"{'http' if is_plain else 'https'}://{host}/v2/{reference.path}/")
        self._authorization: str | None = None
        self._authorizing = asyncio.Lock()

    async def manifest(self, which: str, *, limit_bytes: int) -> tuple[bytes, str]:
        """The manifest or index that `which` (a tag or digest) names, verified, and its media type.

        Raises `NotFound`, `RegistryFailed`.
        """
        data, media_type = await self._document(f"manifests/{which}", limit_bytes, {"Accept": _ACCEPT})
        if ":" in which and digest_of(data) != which:
            raise self._wrong(f"the manifest it gave for {which} has the digest {digest_of(data)}")
        return data, media_type

    async def document(self, digest: str, *, limit_bytes: int) -> bytes:
        """A small blob, verified; raises `NotFound`, `RegistryFailed`."""
        data, _ = await self._document(f"blobs/{digest}", limit_bytes, {})
        if digest_of(data) != digest:
            raise self._wrong(f"blob {digest} that it gave has the digest {digest_of(data)}")
        return data

    async def blob(self, digest: str, size_bytes: int) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob, as they come, `size_bytes` at most; unverified. Goes on where the connection broke.

        Raises `NotFound`, `RegistryFailed`.
        """
        done = tries = 0
        while True:
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                async with self._get(f"blobs/{digest}", headers) as response:
                    skip = 0 if response.status == 206 else done
                    async for chunk in response.content.iter_chunked(_CHUNK):
                        if skip:
                            skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
                        if chunk:
                            tries = 0
                            done += len(chunk)
                            if done > size_bytes:
                                raise self._wrong(f"blob {digest} is larger than the {size_bytes} bytes it should have")
                            yield chunk
                if done < size_bytes:
                    raise _Interrupted(f"blob {digest} ended after {done} of {size_bytes} bytes")
                return
            except (aiohttp.ClientError, TimeoutError, _Interrupted) as error:
                tries += _cost(error)
                await self._pause(tries, error)

    async def _document(self, path: str, limit_bytes: int, headers: Mapping[str, str]) -> tuple[bytes, str]:
        tries = 0
        while True:
            try:
                async with self._get(path, headers) as response:
                    return await self._body(response, limit_bytes), response.content_type
            except (aiohttp.ClientError, TimeoutError, _Interrupted) as error:
                tries += _cost(error)
                await self._pause(tries, error)

    async def _body(self, response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
        data = bytearray()
        async for chunk in response.content.iter_chunked(_CHUNK):
            data += chunk
            if len(data) > limit_bytes:
                raise self._wrong(f"a document is larger than the {limit_bytes} bytes it may have")
        return bytes(data)

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer to a GET below the repository, with a token if it takes one; 200 or 206."""
        before = self._authorization
        async with self._follow(self._base.join(URL(path)), headers, before) as response:
            if response.status != 401:
                self._check(response, path)
                yield response
                return
            challenge = response.headers.get("WWW-Authenticate", "")
        async with self._authorizing:
            if self._authorization == before:
                self._authorization = await self._authorize(challenge)
        async with self._follow(self._base.join(URL(path)), headers, self._authorization) as response:
            self._check(response, path)
            yield response

    @asynccontextmanager
    async def _follow(
        self, url: URL, headers: Mapping[str, str], authorization: str | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        for _ in range(_MOST_REDIRECTS + 1):
            own = {"Authorization": authorization} if authorization and url.origin() == self._base.origin() else {}
            async with self._session.get(url, headers={**headers, **own}, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    yield response
                    return
                target = response.headers.get("Location", "")
            try:
                url = url.join(URL(target))
            except ValueError as error:
                raise self._wrong(f"it redirects to {target!r}, which is no address") from error
            if not target or url.scheme not in ("http", "https") or (url.scheme == "http" and not self._is_plain):
                raise self._wrong(f"it redirects to {target!r}, where we do not follow")
        raise self._wrong(f"it redirects more than {_MOST_REDIRECTS} times")

    async def _authorize(self, challenge: str) -> str:
        """A token for what `challenge` asks; raises `RegistryFailed`."""
        scheme, _, rest = challenge.partition(" ")
        parameters = dict(_CHALLENGE.findall(rest))
        if scheme.lower() != "bearer" or not parameters.get("realm"):
            if scheme.lower() == "basic":
                raise self._denied("it wants a user name and a password")
            raise self._wrong("it answered 401 without saying how to authenticate")
        try:
            realm = URL(parameters["realm"])
        except ValueError as error:
            raise self._wrong(f"its token service is {parameters['realm']!r}, which is no address") from error
        if realm.scheme != "https" and not (realm.scheme == "http" and self._is_plain):
            raise self._wrong(f"its token service is {realm}, where we do not go")
        query = {"scope": f"repository:{self._path}:pull"}
        if "service" in parameters:
            query["service"] = parameters["service"]
        async with self._follow(realm.update_query(query), {}, None) as response:
            if response.status in (401, 403):
                raise self._denied("its token service gave no token")
            if response.status in _BUSY:
                raise _Interrupted(f"its token service answered {response.status}", _retry_after(response))
            if response.status != 200:
                raise self._wrong(f"its token service answered {response.status}")
            data = await self._body(response, _MOST_TOKEN_BYTES)
        try:
            token = msgspec.json.decode(data, type=_Token)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise self._wrong("its token service gave something else than a token") from error
        value = token.token or token.access_token
        if not value or not value.isprintable():
            raise self._wrong("its token service gave something else than a token")
        return f"Bearer {value}"

    def _check(self, response: aiohttp.ClientResponse, path: str) -> None:
        status = response.status
        if status in (200, 206):
            return
        if status == 404:
            kind, _, which = path.partition("/")
            separator = "@" if ":" in which else ":"
            raise NotFound(
                f"{kind.removesuffix('s')} for {self._name}{separator}{which} not found:"
                f" registry {self._host} does not have it"
            )
        if status in (401, 403):
            raise self._denied(f"it answered {status}")
        if status in _BUSY:
            raise _Interrupted(f"it answered {status}", _retry_after(response))
        raise self._wrong(f"it answered {status} for {path}")

    async def _pause(self, tries: int, error: Exception) -> None:
        """Wait before the next try, or raise `RegistryFailed` when it is no use."""
        reason = str(error) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientConnectorSSLError):
            raise RegistryFailed(
                f"registry {self._host} cannot be trusted: {reason}"
                " (if it speaks plain HTTP, name it in the setting insecure_registries)"
            ) from error
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.InvalidURL):
            raise RegistryFailed(f"registry {self._host} cannot be reached: {reason}") from error
        if tries >= _TRIES:
            raise RegistryFailed(f"registry {self._host} failed again and again, at last: {reason}") from error
        asked = error.pause_s if isinstance(error, _Interrupted) else None
        await asyncio.sleep(min(2.0 ** (tries - 2) if asked is None else asked, _MOST_PAUSE_S))

    def _wrong(self, why: str) -> RegistryFailed:
        return RegistryFailed(f"registry {self._host} answered wrongly: {why}")

    def _denied(self, why: str) -> NotFound:
        return NotFound(f"pull access denied for {self._name}, repository does not exist or may require a login: {why}")


@asynccontextmanager
async def open_repository(reference: Reference, insecure_registries: Collection[str]) -> AsyncIterator[Repository]:
    """A client for the repository of `reference`: plain HTTP on loopback and where it is allowed, else HTTPS."""
    is_plain = reference.is_loopback or reference.domain in insecure_registries
    # Blobs are hashed as they are: nothing may be unpacked in between. Proxies of the environment are not for loopback.
    async with aiohttp.ClientSession(
        timeout=_TIMEOUT,
        auto_decompress=False,
        trust_env=not reference.is_loopback,
        headers={"Accept-Encoding": "identity", "User-Agent": "atoll"},
        connector=aiohttp.TCPConnector(limit_per_host=6),
    ) as session:
        yield Repository(reference, session, is_plain=is_plain)


def _cost(error: Exception) -> int:
    """How many tries a failure uses up: a registry that says nothing has been waited for long enough."""
    return 2 if isinstance(error, TimeoutError) else 1


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isdigit() else None
