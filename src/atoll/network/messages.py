"""What engine and segment say to each other: parameters and results of the requests in `client.py`."""

from msgspec import Struct

from atoll.model.network import Counters, Endpoint, PortBinding, SegmentSpec


class Configure(Struct, frozen=True, kw_only=True):
    """All that a segment is to be."""

    spec: SegmentSpec
    endpoints: tuple[Endpoint, ...]


class Put(Struct, frozen=True, kw_only=True):
    """An endpoint that is added, or changes."""

    endpoint: Endpoint


class Bound(Struct, frozen=True, kw_only=True):
    """Published ports with the host's ports chosen."""

    ports: tuple[PortBinding, ...]


class Plug(Struct, frozen=True, kw_only=True):
    """An endpoint's tap, which is in the keeper's home."""

    endpoint_id: str
    tap: str


class Remove(Struct, frozen=True, kw_only=True):
    """An endpoint that goes."""

    endpoint_id: str


class AllCounters(Struct, frozen=True, kw_only=True):
    """Counters by endpoint."""

    counters: dict[str, Counters]
