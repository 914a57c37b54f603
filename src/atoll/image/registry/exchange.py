"""Requests to one repository of a registry: authorized, and tried again as its answers ask for."""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import aiohttp
from yarl import URL

from atoll.errors import AtollError, NotFound
from atoll.image.registry.authorization import Authorization, Denied
from atoll.image.registry.credentials import Credentials
from atoll.image.registry.endpoint import Endpoint
from atoll.image.registry.follow import Body, follow, reason_of, wrong
from atoll.image.registry.patience import BUSY, TRANSIENT, Attempts, Interrupted, Patience, retry_after

Result = TypeVar("Result")


class Exchange:
    """What may be asked of `endpoint` within `scopes`; `refusal` makes the error for a door that stays shut."""

    def __init__(
        self,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        credentials: Credentials,
        scopes: Collection[str],
        patience: Patience,
        refusal: Callable[[str], AtollError],
        *,
        offline: bool = False,
    ) -> None:
        self.endpoint = endpoint
        self.patience = patience
        self.authorization = Authorization(endpoint, session, credentials, scopes, offline=offline)
        self._session = session
        self._refusal = refusal

    def url(self, path: str) -> URL:
        """The address of `path` below `/v2/`."""
        return self.endpoint.base.join(URL(path))

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        *,
        accept: Collection[int],
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        missing: str = "",
        extra_s: float = 0.0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The answer, if its status is one of `accept`; a token is fetched, or a new one, where one is wanted.

        It may be silent for `extra_s` longer than others. Raises `NotFound` with `missing` (where it is given) for 404,
        the refusal for 401 and 403, `Interrupted` for what may pass, and `RegistryFailed`.
        """
        before = self.authorization.header
        async with self._once(method, url, headers, body, extra_s) as response:
            if response.status != 401:
                await self._check(response, accept, missing)
                yield response
                return
            try:
                await self.authorization.renew(before, response)
            except Denied as error:
                raise self._refusal(str(error)) from error
        async with self._once(method, url, headers, body, extra_s) as response:
            await self._check(response, accept, missing)
            yield response

    async def persistently(self, attempt: Callable[[], Awaitable[Result]]) -> Result:
        """Call `attempt` until it comes to its end, or `RegistryFailed`."""
        attempts = Attempts(self.endpoint.host, self.patience)
        while True:
            try:
                return await attempt()
            except TRANSIENT as error:
                await attempts.failed(error)

    @asynccontextmanager
    async def _once(
        self, method: str, url: URL, headers: Mapping[str, str] | None, body: Body | None, extra_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        header = self.authorization.header
        sent = {**(headers or {}), **({"Authorization": header} if header else {})}
        base = self.endpoint.base
        waits = self.patience.timeout(extra_s)
        asking = follow(self._session, self.endpoint, method, url, sent, body, at_home=base, waits=waits)
        async with asking as response:
            yield response

    async def _check(self, response: aiohttp.ClientResponse, accept: Collection[int], missing: str) -> None:
        status = response.status
        if status in accept:
            return
        if status == 404 and missing:
            raise NotFound(missing)
        if status in BUSY:
            raise Interrupted(f"it answered {status}", retry_after(response))
        reason = await reason_of(response)
        if status in (401, 403):
            raise self._refusal(reason or f"it answered {status}")
        raise wrong(self.endpoint, f"it answered {status} for {response.url.path}" + (f" ({reason})" if reason else ""))
