"""Registries in the API: whether one takes a password (`POST /auth`), and the credentials that come with a request.

Passwords are passed on and kept nowhere: neither in a log nor in an error.
"""

from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from aiohttp import web

from atoll.api.requests import answer, body_of, engine_of
from atoll.errors import InvalidRequest
from atoll.image import ANONYMOUS, Credentials, Reference, Scheme, registry_domain

T = TypeVar("T")


class AuthConfig(msgspec.Struct, frozen=True):
    """Docker's AuthConfig; `auth` is user name and password in base64, for those who have only that."""

    username: str = ""
    password: str = ""
    auth: str = ""
    server_address: str = msgspec.field(default="", name="serveraddress")
    identity_token: str = msgspec.field(default="", name="identitytoken")
    registry_token: str = msgspec.field(default="", name="registrytoken")

    def credentials(self) -> Credentials:
        """The same in the words of the image package; raises `InvalidRequest`."""
        username, password = self.username, self.password
        if self.auth and not username:
            username, _, password = _decoded(self.auth, "auth").decode(errors="replace").partition(":")
        return Credentials(username, password.rstrip("\0"), self.identity_token, self.registry_token)


async def auth(request: web.Request) -> web.Response:
    """Ask a registry whether it takes a user's name and password."""
    asked = await body_of(request, AuthConfig)
    token = await engine_of(request).images.log_in(
        registry_domain(asked.server_address), asked.credentials(), scheme_of(request)
    )
    return answer({"Status": "Login Succeeded", "IdentityToken": token})


def scheme_of(request: web.Request) -> Scheme:
    """How to speak to the registry, an addition of ours to Docker's API; raises `InvalidRequest`."""
    return Scheme.parse(request.query.get("scheme", ""))


def credentials_of(request: web.Request) -> Credentials:
    """Those that a client sent along for the one registry that the request is about; raises `InvalidRequest`."""
    text = request.headers.get("X-Registry-Auth", "")
    if text in ("", "null"):
        return ANONYMOUS
    return _header("X-Registry-Auth", text, AuthConfig).credentials()


def all_credentials_of(request: web.Request, image: str) -> Mapping[str, Credentials]:
    """By registry: that of `image`, and those of `X-Registry-Config`, as mirrors have; raises `InvalidRequest`."""
    found: dict[str, Credentials] = {}
    if text := request.headers.get("X-Registry-Config", ""):
        configs = _header("X-Registry-Config", text, dict[str, AuthConfig])
        found = {registry_domain(server): config.credentials() for server, config in configs.items()}
    own = credentials_of(request)
    return found if own == ANONYMOUS else {**found, Reference.parse(image).domain: own}


def _header(name: str, text: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(_decoded(text, name), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        # What it says is not repeated: it may hold a password.
        raise InvalidRequest(f"{name} is malformed: it must be JSON in base64url") from None


def _decoded(text: str, name: str) -> bytes:
    """Base64 in either alphabet, with or without padding."""
    try:
        plain = text.rstrip("=").translate(str.maketrans("+/", "-_"))
        return urlsafe_b64decode(plain + "=" * (-len(plain) % 4))
    except ValueError:
        raise InvalidRequest(f"{name} is malformed: it is no base64") from None


ROUTES = (("POST", "/auth", auth),)
