"""The engine's client, as light as it can be: see `client.py`; the endpoints are modules of functions."""

from atoll.client.client import Client, EngineError

__all__ = ["Client", "EngineError"]
