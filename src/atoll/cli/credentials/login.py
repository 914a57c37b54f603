"""One user at one registry."""

from binascii import Error, a2b_base64, b2a_base64
from dataclasses import dataclass, field

from atoll.cli.errors import Failure

TOKEN_USER = "<token>"
"""The user name under which helpers keep an identity token."""


@dataclass(frozen=True)
class Login:
    """A user name with a password, or an identity token in their place."""

    server: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def encoded(login: Login) -> str:
    """User name and password as the configuration file has them."""
    return b2a_base64(f"{login.username}:{login.password}".encode(), newline=False).decode()


def decoded(server: str, text: str) -> tuple[str, str]:
    """The opposite of `encoded`; raises `Failure` naming the server."""
    try:
        username, colon, password = a2b_base64(text).decode().partition(":")
    except (Error, UnicodeDecodeError):
        colon = username = password = ""
    if not colon or not username:
        raise Failure(f"invalid auth configuration file: the entry of {server} is no user name and password")
    return username, password.rstrip("\0")
