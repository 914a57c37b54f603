"""Where a login is kept: in the configuration file itself, or by a helper that the file names."""

from typing import Protocol

from atoll.cli.credentials.config_file import ConfigFile, Entry
from atoll.cli.credentials.login import Login, decoded, encoded
from atoll.cli.credentials.servers import host_of


class Store(Protocol):
    """Keeps logins by registry; every method raises `Failure`."""

    def get(self, server: str) -> Login | None:
        """The login at a registry."""

    def store(self, login: Login) -> None:
        """Keep a login."""

    def erase(self, server: str) -> bool:
        """Forget a registry; whether it was known."""


def store_for(config: ConfigFile, server: str) -> Store:
    """Who keeps the login at `server`."""
    helper = config.helper(server)
    return _HelperStore(config, helper) if helper else _FileStore(config)


def logins(config: ConfigFile) -> list[tuple[str, str, str]]:
    """Every login: registry, user name (`<token>` for a token), and the helper that keeps it, or `file`."""
    found: dict[str, tuple[str, str]] = {}
    for server, entry in config.auths.items():
        if (login := _login(server, entry)) is not None:
            found[server] = (login.username or "<token>", "file")
    for name in config.helpers():
        from atoll.cli.credentials.helper import Helper

        for server, user in Helper(name).list().items():
            if config.helper(server) == name:
                found[server] = (user, name)
    return sorted((server, user, keeper) for server, (user, keeper) in found.items())


class _FileStore:
    def __init__(self, config: ConfigFile) -> None:
        self._config = config

    def get(self, server: str) -> Login | None:
        key = _key(self._config.auths, server)
        return _login(key, self._config.auths[key]) if key is not None else None

    def store(self, login: Login) -> None:
        entry: Entry = {"auth": encoded(login)}
        if login.identity_token:
            entry = {"auth": encoded(Login(login.server, login.username)), "identitytoken": login.identity_token}
        self._config.put(login.server, entry)
        self._config.save()

    def erase(self, server: str) -> bool:
        key = _key(self._config.auths, server)
        if key is None:
            return False
        self._config.put(key, None)
        self._config.save()
        return True


class _HelperStore:
    def __init__(self, config: ConfigFile, name: str) -> None:
        from atoll.cli.credentials.helper import Helper

        self._config = config
        self._helper = Helper(name)

    def get(self, server: str) -> Login | None:
        return self._helper.get(server)

    def store(self, login: Login) -> None:
        self._helper.store(login)
        # An empty entry, as Docker's: that there is a login, and no secret.
        self._config.put(login.server, {})
        self._config.save()

    def erase(self, server: str) -> bool:
        was_known = self._helper.get(server) is not None
        if was_known:
            self._helper.erase(server)
        if server in self._config.auths:
            self._config.put(server, None)
            self._config.save()
        return was_known


def _key(auths: dict[str, Entry], server: str) -> str | None:
    """The key of a registry: its own, or an old one with a scheme and a path."""
    if server in auths:
        return server
    return next((key for key in auths if host_of(key) == host_of(server)), None)


def _login(server: str, entry: Entry) -> Login | None:
    """What an entry of the file says; None when it says nothing."""
    text, token = str(entry.get("auth") or ""), str(entry.get("identitytoken") or "")
    if token:
        return Login(server, identity_token=token)
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if text:
        username, password = decoded(server, text)
    return Login(server, username, password) if username else None
