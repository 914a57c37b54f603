"""Docker's Engine API, and Atoll's additions to it, on a unix socket."""

from atoll.api.server import serve

__all__ = ["serve"]
