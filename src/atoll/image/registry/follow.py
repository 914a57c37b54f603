"""One HTTP exchange with a registry: redirects followed by hand, bodies bounded.

So a token goes to nobody but the registry, and nobody is led from HTTPS to HTTP.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from atoll.errors import RegistryFailed
from atoll.image.registry.endpoint import Endpoint

Body = bytes | Callable[[], AsyncIterable[bytes]]
"""What is sent; a stream is made anew for every try."""

CHUNK_BYTES = 256 << 10
_MOST_REDIRECTS = 5
_MOST_REASON_BYTES = 8 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@asynccontextmanager
async def follow(
    session: aiohttp.ClientSession,
    endpoint: Endpoint,
    method: str,
    url: URL,
    headers: Mapping[str, str],
    body: Body | None = None,
    *,
    at_home: URL,
    waits: aiohttp.ClientTimeout | None = None,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The first answer that is no redirect; an `Authorization` in `headers` is sent to the origin of `at_home` only.

    `waits` are the session's, where none are given. Raises `RegistryFailed` when it leads in circles or where we do not
    go.
    """
    chosen = waits or session.timeout
    for _ in range(_MOST_REDIRECTS + 1):
        sent = {k: v for k, v in headers.items() if k != "Authorization" or url.origin() == at_home.origin()}
        data = body() if callable(body) else body
        asking = session.request(method, url, headers=sent, data=data, allow_redirects=False, timeout=chosen)
        async with asking as response:
            if response.status not in _REDIRECTS:
                yield response
                return
            target = response.headers.get("Location", "")
            if response.status == 303:
                method, body = "GET", None
        url = joined(endpoint, url, target)
    raise wrong(endpoint, f"it redirects more than {_MOST_REDIRECTS} times")


def joined(endpoint: Endpoint, url: URL, target: str) -> URL:
    """Where a `Location` of an answer from `url` leads; raises `RegistryFailed` where we do not follow."""
    try:
        # It is encoded already: signatures in it must stay as they are.
        found = url.join(URL(target, encoded=True))
        if target and found.host and (found.scheme == "https" or (found.scheme == "http" and endpoint.is_plain)):
            return found
    except ValueError as error:
        raise wrong(endpoint, f"it redirects to {target!r}, which is no address") from error
    raise wrong(endpoint, f"it redirects to {target!r}, where we do not follow")


async def body_of(endpoint: Endpoint, response: aiohttp.ClientResponse, limit_bytes: int) -> bytes:
    """The whole body; raises `RegistryFailed` when it is larger than `limit_bytes`."""
    data = bytearray()
    async for chunk in response.content.iter_chunked(CHUNK_BYTES):
        data += chunk
        if len(data) > limit_bytes:
            raise wrong(endpoint, f"a document is larger than the {limit_bytes} bytes it may have")
    return bytes(data)


async def reason_of(response: aiohttp.ClientResponse) -> str:
    """What a registry says about its refusal, made fit for a message; empty when it says nothing that is one."""
    data = await response.content.read(_MOST_REASON_BYTES)
    try:
        first = json.loads(data)["errors"][0]
        text = str(first.get("message") or first["code"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ""
    return "".join(letter for letter in text if letter.isprintable())[:200]


def wrong(endpoint: Endpoint, why: str) -> RegistryFailed:
    """The error for an answer that makes no sense."""
    return RegistryFailed(f"registry {endpoint.host} answered wrongly: {why}")
