"""Sockets of another network namespace: made in a thread that is there, used from anywhere."""

import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from atoll.network.namespaces import enter_network

T = TypeVar("T")
DEADLINE_S = 20.0


class Inside:
    """A named network namespace (`ip netns`)."""

    def __init__(self, name: str) -> None:
        self._path = Path("/run/netns", name)
        self._thread = ThreadPoolExecutor(1, initializer=self._enter)

    def do(self, action: Callable[[], T]) -> T:
        """Carry out `action` there."""
        return self._thread.submit(action).result()

    def connect(self, ip: str, port: int, source: tuple[str, int] | None = None) -> socket.socket:
        """A TCP connection from there."""
        return self.do(lambda: socket.create_connection((ip, port), DEADLINE_S, source))

    def datagrams(self, ip: str, port: int) -> socket.socket:
        """A connected UDP socket from there."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
            sock.settimeout(DEADLINE_S)
            sock.connect((ip, port))
            return sock

        return self.do(make)

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _enter(self) -> None:
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            enter_network(descriptor)
        finally:
            os.close(descriptor)
