"""Published ports: listeners of the host's, from which TCP connections and UDP flows lead to containers."""

from atoll.network.segment.ports.ports import Ports

__all__ = ["Ports"]
