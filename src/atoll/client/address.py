"""Where the engine listens: `-H unix://PATH`, or the user's own socket."""

from pathlib import Path

from atoll.errors import InvalidRequest
from atoll.paths import paths


def engine_socket(host: str | None = None) -> Path:
    """The engine's socket: `host` as Docker writes it (`unix:///run/x.sock`, or a bare path), else the user's own.

    Raises `InvalidRequest` when `host` is something other than a unix socket.
    """
    if host is None:
        return paths().socket
    scheme, separator, rest = host.partition("://")
    if not separator:
        scheme, rest = "unix", host
    if scheme != "unix" or not rest:
        raise InvalidRequest(
            f"invalid bind address format: {host}: the engine listens on a unix socket only, say unix://PATH"
        )
    return Path(rest).absolute()
