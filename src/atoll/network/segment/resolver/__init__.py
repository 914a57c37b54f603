"""The names of a network: who is called what, messages, the sockets that answer, and who is asked for the rest."""

from atoll.network.segment.resolver.forwarder import Outlet
from atoll.network.segment.resolver.resolver import Learn, Resolver

__all__ = ["Learn", "Outlet", "Resolver"]
