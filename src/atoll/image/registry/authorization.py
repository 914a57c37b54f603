"""Proving to a registry who we are: basic authentication, and tokens of a service that the registry names.

https://distribution.github.io/distribution/spec/auth/token/ and .../oauth/. Nothing is sent before it is asked for.
"""

import asyncio
import re
from base64 import b64encode
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import aiohttp
import msgspec
from yarl import URL

from atoll.image.registry.credentials import Credentials
from atoll.image.registry.endpoint import Endpoint
from atoll.image.registry.follow import body_of, follow, wrong
from atoll.image.registry.patience import BUSY, Interrupted, retry_after

CLIENT = "atoll"
"""What we call ourselves to token services."""
_MOST_TOKEN_BYTES = 1 << 20
_PARAMETER = re.compile(r'(\w+)=(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))')


class Denied(Exception):
    """The registry, or its token service, does not let us in."""


@dataclass(frozen=True)
class _Challenge:
    scheme: str
    realm: str
    service: str


class _Token(msgspec.Struct):
    token: str = ""
    access_token: str = ""
    refresh_token: str = ""


class Authorization:
    """The `Authorization` header for one registry, good for `scopes` (`repository:reef:pull,push`)."""

    def __init__(
        self,
        endpoint: Endpoint,
        session: aiohttp.ClientSession,
        credentials: Credentials,
        scopes: Collection[str],
        *,
        offline: bool = False,
    ) -> None:
        """With `offline`, `identity_token` is asked for along the way."""
        self.header: str | None = None
        """None until the registry has wanted one."""
        self.identity_token = ""
        self._endpoint = endpoint
        self._session = session
        self._credentials = credentials
        self._scopes = scopes
        self._offline = offline
        self._renewing = asyncio.Lock()

    async def renew(self, refused: str | None, answer: aiohttp.ClientResponse) -> None:
        """Get a header that `answer`, a 401, asks for, in place of `refused`; who comes late gets the new one.

        Raises `Denied`, `RegistryFailed`, `Interrupted`.
        """
        asked = _challenges(answer.headers.getall("WWW-Authenticate", ()))
        async with self._renewing:
            if self.header == refused:
                self.header = await self._header(asked)

    async def _header(self, asked: Mapping[str, _Challenge]) -> str:
        if bearer := asked.get("bearer"):
            return f"Bearer {await self._token(bearer)}"
        if "basic" not in asked:
            raise wrong(self._endpoint, "it answered 401 without saying how to authenticate")
        if not self._credentials.username:
            raise Denied("it wants a user name and a password")
        header = _basic(self._credentials)
        if header == self.header:
            raise Denied("it does not take the user name and password that we have")
        return header

    async def _token(self, challenge: _Challenge) -> str:
        if self._credentials.registry_token:
            if self.header is not None:
                raise Denied("it does not take the token that we have")
            return self._credentials.registry_token
        token = await self._asked(challenge)
        self.identity_token = token.refresh_token or self.identity_token
        value = token.token or token.access_token
        if not value or not value.isascii() or not value.isprintable():
            raise wrong(self._endpoint, "its token service gave something else than a token")
        return value

    async def _asked(self, challenge: _Challenge) -> _Token:
        try:
            realm = URL(challenge.realm)
        except ValueError as error:
            raise wrong(self._endpoint, f"its token service is {challenge.realm!r}, which is no address") from error
        if realm.scheme != "https" and not (realm.scheme == "http" and self._endpoint.is_plain):
            raise wrong(self._endpoint, f"its token service is {realm}, where we do not go")
        headers: dict[str, str] = {}
        form: bytes | None = None
        service = {"service": challenge.service} if challenge.service else {}
        if identity := self._credentials.identity_token:
            fields = {"grant_type": "refresh_token", "refresh_token": identity, "client_id": CLIENT, **service}
            form = URL.build(query={**fields, "scope": " ".join(self._scopes)}).raw_query_string.encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            query = [*service.items(), *(("scope", scope) for scope in self._scopes)]
            if self._credentials.username:
                headers["Authorization"] = _basic(self._credentials)
                query.append(("account", self._credentials.username))
            if self._offline:
                query += [("offline_token", "true"), ("client_id", CLIENT)]
            realm = realm.extend_query(query)
        method = "GET" if form is None else "POST"
        async with follow(self._session, self._endpoint, method, realm, headers, form, at_home=realm) as response:
            await self._check(response)
            data = await body_of(self._endpoint, response, _MOST_TOKEN_BYTES)
        try:
            return msgspec.json.decode(data, type=_Token)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise wrong(self._endpoint, "its token service gave something else than a token") from error

    async def _check(self, response: aiohttp.ClientResponse) -> None:
        """Raise what an answer of the token service other than 200 means."""
        # Of a refresh token that is no good any more, OAuth2 says 400 (RFC 6749, section 5.2).
        is_refused = response.status in (401, 403) or (
            response.status == 400 and bool(self._credentials.identity_token)
        )
        if is_refused and (self._credentials.username or self._credentials.identity_token):
            raise Denied("its token service does not take the user name and password, or the token, that we have")
        if is_refused:
            raise Denied("its token service gave no token")
        if response.status in BUSY:
            raise Interrupted(f"its token service answered {response.status}", retry_after(response))
        if response.status != 200:
            raise wrong(self._endpoint, f"its token service answered {response.status}")


def _basic(credentials: Credentials) -> str:
    pair = f"{credentials.username}:{credentials.password}".encode()
    return f"Basic {b64encode(pair).decode()}"


def _challenges(headers: Iterable[str]) -> dict[str, _Challenge]:
    """The ways to authenticate that an answer offers, by scheme."""
    found: dict[str, _Challenge] = {}
    for header in headers:
        scheme, _, rest = header.strip().partition(" ")
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
        if scheme.lower() == "basic" or (scheme.lower() == "bearer" and parameters.get("realm")):
            challenge = _Challenge(scheme.lower(), parameters.get("realm", ""), parameters.get("service", ""))
            found.setdefault(challenge.scheme, challenge)
    return found
