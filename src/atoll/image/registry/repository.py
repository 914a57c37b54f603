"""Reading one repository of a registry: OCI distribution-spec 1.1, pulling.

https://github.com/opencontainers/distribution-spec/blob/main/spec.md
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import aiohttp
import msgspec
from yarl import URL

from atoll.errors import AtollError, NotFound
from atoll.image.blobs import digest_of
from atoll.image.oci import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from atoll.image.reference import Reference
from atoll.image.registry.credentials import ANONYMOUS, Credentials
from atoll.image.registry.endpoint import Endpoint
from atoll.image.registry.exchange import Exchange
from atoll.image.registry.follow import CHUNK_BYTES, body_of, joined, wrong
from atoll.image.registry.patience import TRANSIENT, Attempts, Interrupted, Patience

_ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST))
_MOST_LIST_BYTES = 4 << 20
_MOST_TAGS = 100_000
_NEXT = re.compile(r'<([^>]*)>\s*;\s*rel="?next"?')
_RANGE = re.compile(r"bytes (\d+)-")


class _Tags(msgspec.Struct):
    tags: tuple[str, ...] | None = None


class Repository:
    """The repository that a reference names, as one registry or mirror has it."""

    def __init__(self, reference: Reference, exchange: Exchange) -> None:
        self._name = reference.familiar_repository
        self._path = reference.path
        self._exchange = exchange

    @property
    def endpoint(self) -> Endpoint:
        """Who answers."""
        return self._exchange.endpoint

    async def manifest(self, which: str, *, limit_bytes: int) -> tuple[bytes, str]:
        """The manifest or index that `which` (a tag or digest) names, verified, and its media type.

        Raises `NotFound`, `RegistryFailed`.
        """
        data, media_type = await self._document(f"manifests/{which}", limit_bytes, {"Accept": _ACCEPT})
        if ":" in which and digest_of(data) != which:
            raise wrong(self.endpoint, f"the manifest it gave for {which} has the digest {digest_of(data)}")
        return data, media_type

    async def document(self, digest: str, *, limit_bytes: int) -> bytes:
        """A small blob, verified; raises `NotFound`, `RegistryFailed`."""
        data, _ = await self._document(f"blobs/{digest}", limit_bytes, {})
        if digest_of(data) != digest:
            raise wrong(self.endpoint, f"blob {digest} that it gave has the digest {digest_of(data)}")
        return data

    async def blob(self, digest: str, size_bytes: int, begin: int = 0) -> AsyncGenerator[bytes, None]:
        """The bytes of a blob from `begin` on, as they come, up to `size_bytes` of the whole; unverified.

        Goes on where the connection broke. Raises `NotFound`, `RegistryFailed`.
        """
        done = begin
        attempts = Attempts(self.endpoint.host, self._exchange.patience)
        while done < size_bytes:
            try:
                headers = {"Range": f"bytes={done}-"} if done else {}
                async with self._get(f"blobs/{digest}", headers) as response:
                    skip = self._skipped(response, done)
                    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                        if skip:
                            skip, chunk = max(0, skip - len(chunk)), chunk[skip:]
                        if chunk:
                            attempts.progressed()
                            done += len(chunk)
                            if done > size_bytes:
                                why = f"blob {digest} is larger than the {size_bytes} bytes it should have"
                                raise wrong(self.endpoint, why)
                            yield chunk
                if done < size_bytes:
                    raise Interrupted(f"blob {digest} ended after {done} of {size_bytes} bytes")
            except TRANSIENT as error:
                await attempts.failed(error)

    def _skipped(self, response: aiohttp.ClientResponse, done: int) -> int:
        """How many bytes of an answer we have already: not every registry knows ranges."""
        if response.status != 206:
            return done
        match = _RANGE.match(response.headers.get("Content-Range", f"bytes {done}-"))
        if not match or int(match[1]) != done:
            raise wrong(self.endpoint, f"it was asked for bytes from {done} on, and gave others")
        return 0

    async def tags(self) -> list[str]:
        """Every tag of the repository; raises `NotFound`, `RegistryFailed`."""
        found: list[str] = []
        url = self._url("tags/list")
        while True:
            page, following = await self._exchange.persistently(partial(self._tag_page, url))
            found += page
            if following is None or not page:
                return found
            if len(found) > _MOST_TAGS:
                raise wrong(self.endpoint, f"the repository has more than {_MOST_TAGS} tags")
            url = following

    async def _tag_page(self, url: URL) -> tuple[tuple[str, ...], URL | None]:
        missing = f"repository {self._name} not found: registry {self.endpoint.host} does not have it"
        async with self._exchange.request("GET", url, accept=(200,), missing=missing) as response:
            data = await body_of(self.endpoint, response, _MOST_LIST_BYTES)
            link = _NEXT.search(response.headers.get("Link", ""))
        try:
            tags = msgspec.json.decode(data, type=_Tags).tags or ()
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise wrong(self.endpoint, f"its list of tags is malformed: {error}") from error
        return tags, joined(self.endpoint, url, link[1]) if link else None

    async def _document(self, path: str, limit_bytes: int, headers: Mapping[str, str]) -> tuple[bytes, str]:
        async def attempt() -> tuple[bytes, str]:
            async with self._get(path, headers) as response:
                return await body_of(self.endpoint, response, limit_bytes), response.content_type

        return await self._exchange.persistently(attempt)

    @asynccontextmanager
    async def _get(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[aiohttp.ClientResponse]:
        kind, _, which = path.partition("/")
        separator = "@" if ":" in which else ":"
        missing = (
            f"{kind.removesuffix('s')} for {self._name}{separator}{which} not found:"
            f" registry {self.endpoint.host} does not have it"
        )
        url = self._url(path)
        async with self._exchange.request("GET", url, accept=(200, 206), headers=headers, missing=missing) as response:
            yield response

    def _url(self, path: str) -> URL:
        return self._exchange.url(f"{self._path}/{path}")


def open_session(endpoint: Endpoint, patience: Patience) -> aiohttp.ClientSession:
    """A session for one registry; to be closed."""
    # Blobs are hashed as they are: nothing may be unpacked in between. Proxies of the environment are not for loopback.
    return aiohttp.ClientSession(
        timeout=patience.timeout(),
        auto_decompress=False,
        trust_env=not endpoint.is_local,
        headers={"Accept-Encoding": "identity", "User-Agent": "atoll"},
        connector=aiohttp.TCPConnector(limit_per_host=8, ssl=endpoint.tls),
    )


@asynccontextmanager
async def open_repository(
    reference: Reference, endpoint: Endpoint, patience: Patience, credentials: Credentials = ANONYMOUS
) -> AsyncIterator[Repository]:
    """A client for the repository of `reference` at `endpoint`."""

    def refusal(why: str) -> AtollError:
        name = reference.familiar_repository
        return NotFound(f"pull access denied for {name}, repository does not exist or may require a login: {why}")

    async with open_session(endpoint, patience) as session:
        scopes = (f"repository:{reference.path}:pull",)
        yield Repository(reference, Exchange(endpoint, session, credentials, scopes, patience, refusal))
