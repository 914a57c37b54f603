"""Which ports of the host lead to which containers: the part of a segment that opens and closes listeners.

Listeners are made by the outlet, in the host's namespace; what comes to them is handled by the forwarder's thread.
"""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from msgspec.structs import replace

from atoll.errors import AtollError, Conflict, InvalidRequest
from atoll.model.network import Endpoint, PortBinding, Protocol, SegmentSpec
from atoll.network.segment.outlet import Outlet
from atoll.network.segment.ports.budget import Budget
from atoll.network.segment.ports.forwarder import Forwarder
from atoll.network.segment.ports.pipes import Pipes
from atoll.network.segment.ports.source import Source
from atoll.network.segment.ports.target import Target
from atoll.network.segment.ports.tcp import Listener
from atoll.network.segment.ports.udp import Port

_LOG = logging.getLogger(__name__)
_EVERYWHERE = ("0.0.0.0", "::")
# A connection has two sockets, and now and then a pipe.
_DESCRIPTORS_EACH = 4
_DESCRIPTORS_OF_OTHERS = 512
_SILENCE_S = 90.0
_RANDOM_ATTEMPTS = 16


@dataclass(eq=False)
class _Opened:
    """A binding as it was asked for, and what is open for it: at one address, or at all of both families."""

    asked: PortBinding
    bound: tuple[PortBinding, ...]
    sockets: tuple[socket.socket, ...]
    served: tuple[Listener | Port, ...] = ()


class Ports:
    """The published ports of a segment."""

    def __init__(self, outlet: Outlet, *, silence_s: float = _SILENCE_S) -> None:
        self._outlet = outlet
        self._silence_s = silence_s
        self._source = Source()
        self._pipes = Pipes()
        self._forwarder = Forwarder()
        self._forwarder.start()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = max(descriptors - _DESCRIPTORS_OF_OTHERS, descriptors // 2) // _DESCRIPTORS_EACH
        self._budget = Budget(self._most)
        self._internal = False
        self._opened: dict[str, list[_Opened]] = {}
        self._budgets: dict[str, Budget] = {}

    async def configure(self, spec: SegmentSpec) -> None:
        """Internal networks publish nothing, as Docker's."""
        self._internal = spec.network.internal
        self._source.configure(spec)

    async def put(self, endpoint: Endpoint) -> tuple[PortBinding, ...]:
        """Open what `endpoint` publishes, all or nothing; what it had stays open. The bindings with real host ports.

        Raises `Conflict` for a port that is taken, and `InvalidRequest` for one that cannot be had.
        """
        wanted = () if self._internal else tuple(dict.fromkeys(endpoint.ports))
        known = self._opened.get(endpoint.id, [])
        now: list[_Opened] = []
        bound: list[PortBinding] = []
        async with AsyncExitStack() as undo:
            for binding in wanted:
                # It may be asked for as it was chosen: by an engine that has it from its records.
                opened = next((one for one in known if binding == one.asked or binding in one.bound), None)
                if opened is None:
                    opened = await self._open(endpoint, binding)
                    undo.callback(_close_sockets, opened)
                if opened not in now:
                    now.append(opened)
                bound += opened.bound if binding == opened.asked else (binding,)
            undo.pop_all()
        self._opened[endpoint.id] = now
        budget = self._budgets.setdefault(endpoint.id, Budget(self._most * 3 // 4, self._budget))
        gone = [opened for opened in known if opened not in now]
        await self._do(lambda: self._change(gone, now, endpoint, budget))
        return tuple(bound)

    async def remove(self, endpoint_id: str) -> None:
        """Close all that leads to an endpoint."""
        opened = self._opened.pop(endpoint_id, [])
        self._budgets.pop(endpoint_id, None)
        if opened:
            await self._do(lambda: _stop(opened))

    async def close(self) -> None:
        """Close everything, and end the thread."""
        for endpoint_id in tuple(self._opened):
            await self.remove(endpoint_id)
        self._forwarder.stop()
        self._pipes.close()

    async def _do(self, action: Callable[[], None]) -> None:
        """Have the thread do something; it is done also when we are cancelled."""
        await asyncio.shield(asyncio.wrap_future(self._forwarder.run(action)))

    def _change(self, gone: Sequence[_Opened], now: Sequence[_Opened], endpoint: Endpoint, budget: Budget) -> None:
        _stop(gone)
        for opened in now:
            target = Target(endpoint.ipv4, endpoint.ipv6, opened.asked.container_port)
            for served in opened.served:
                if served.target != target:
                    served.move(target)
            if not opened.served:
                opened.served = tuple(
                    self._serve(opened.asked.protocol, sock, target, budget) for sock in opened.sockets
                )

    def _serve(self, protocol: Protocol, sock: socket.socket, target: Target, budget: Budget) -> Listener | Port:
        if protocol == "tcp":
            return Listener(self._forwarder, self._pipes, self._source, budget, sock, target)
        return Port(self._forwarder, self._source, budget, sock, target, self._silence_s)

    async def _open(self, endpoint: Endpoint, binding: PortBinding) -> _Opened:
        """Listeners for a binding, all with the same port."""
        addresses = (binding.host_ip,) if binding.host_ip else _EVERYWHERE
        candidates = _candidates(binding, len(addresses))
        for number, port in enumerate(candidates, 1):
            try:
                sockets = await self._bind(addresses, binding.protocol, port)
            except AtollError as error:
                if isinstance(error, Conflict) and number < len(candidates):
                    continue
                name = f"{endpoint.names[0]} ({endpoint.id[:12]})" if endpoint.names else endpoint.id[:12]
                words = f"driver failed programming external connectivity on endpoint {name}: {error}"
                raise type(error)(words) from error
            bound = tuple(
                replace(binding, host_ip=sock.getsockname()[0], host_port=sock.getsockname()[1], host_port_last=0)
                for sock in sockets
            )
            return _Opened(binding, bound, sockets)
        raise AssertionError("the last attempt returns or raises")

    async def _bind(self, addresses: Sequence[str], protocol: Protocol, port: int) -> tuple[socket.socket, ...]:
        make = self._outlet.listen if protocol == "tcp" else self._outlet.bind
        sockets: list[socket.socket] = []
        try:
            for address in addresses:
                try:
                    sockets.append(sock := await make(address, port))
                except InvalidRequest as error:
                    # A host without IPv6 is published on without it.
                    if not sockets or address != "::":
                        raise
                    _LOG.info("published without IPv6: %s", error)
                else:
                    port = sock.getsockname()[1]
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return tuple(sockets)


def _candidates(binding: PortBinding, addresses: int) -> Sequence[int]:
    """The ports of the host to try, in order; a free one of the first address may be taken at the second."""
    if binding.host_port:
        return range(binding.host_port, max(binding.host_port, binding.host_port_last) + 1)
    return (0,) * (_RANDOM_ATTEMPTS if addresses > 1 else 1)


def _stop(gone: Sequence[_Opened]) -> None:
    for opened in gone:
        for served in opened.served:
            served.close()


def _close_sockets(opened: _Opened) -> None:
    for sock in opened.sockets:
        sock.close()
