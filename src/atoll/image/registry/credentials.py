"""Who we are for a registry."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Credentials:
    """A user's name and password, or a token in their place; all empty for nobody in particular.

    `identity_token` is an OAuth2 refresh token, exchanged for tokens of the registry; `registry_token` is one of the
    latter. No secret is shown by `repr`.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


ANONYMOUS = Credentials()
