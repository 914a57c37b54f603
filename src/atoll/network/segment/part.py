"""A part of a segment, and how they work together: see `segment.py`."""

from typing import Protocol

from atoll.model.network import Endpoint, PortBinding, SegmentSpec


class Part(Protocol):
    """One thing that a segment does for its network. All requests are idempotent; one comes at a time.

    A part that starts in a namespace where an earlier one was killed finds what that left, and takes it over.
    """

    async def configure(self, spec: SegmentSpec) -> None:
        """Be what `spec` says; comes before all others, and again when the network has changed."""

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...] | None:
        """Add or change an endpoint; ports answer with the host ports chosen. Nothing half-made when it raises."""

    async def remove(self, endpoint_id: str) -> None:
        """Forget an endpoint; nothing when there is none."""

    async def close(self) -> None:
        """The network goes, or nobody needs it: leave nothing outside of the namespace."""
