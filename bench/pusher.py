"""Pushes bytes through a TCP port of a bench's host: `python pusher.py PORT MIB` prints the seconds it took."""

import os
import socket
import sys
import time
from pathlib import Path

from harness.internet import Outside

_PATIENCE_S = 10.0


def push_mib_s(place: Outside, port: int, mib: int) -> float:
    """MiB/s into `port` of the host's loopback, until the other side has read them all."""
    command = place.on_host("env", f"PYTHONPATH={os.environ['PYTHONPATH']}", sys.executable, os.fspath(Path(__file__)))
    return mib / float(command.ok(str(port), str(mib)))


def main(port: int, mib: int) -> None:
    """Push, and print."""
    piece = bytes(1 << 20)
    with _connected(port) as connection:
        began = time.perf_counter()
        for _ in range(mib):
            connection.sendall(piece)
        connection.shutdown(socket.SHUT_WR)
        # The other side closes when it has read everything.
        while connection.recv(1 << 16):
            pass
        print(time.perf_counter() - began)


def _connected(port: int) -> socket.socket:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
