"""The endpoint of registries (Docker Engine API reference, `/auth`)."""

from typing import TYPE_CHECKING, cast

from atoll.client.client import Client

if TYPE_CHECKING:
    from atoll.client.shapes import Object


def log_in(
    client: Client, server: str, *, username: str, password: str, identity_token: str, scheme: str | None
) -> "Object":
    """Have a registry look at a user's name and password; what Docker answers, `Status` and `IdentityToken`."""
    body: Object = {
        "username": username,
        "password": password,
        "identitytoken": identity_token,
        "serveraddress": server,
    }
    return cast("Object", client.post("/auth", {"scheme": scheme}, body))
