"""What a command needs besides its flags: the engine, and where output goes.

The client is made when it is first asked for, so that help and bad flags never start an engine.
"""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from atoll.client import Client


class Session:
    """One run of the command."""

    def __init__(self, host: str | None = None, *, debug: bool = False) -> None:
        self.debug = debug
        self._host = host
        self._client: Client | None = None

    @property
    def socket(self) -> "Path":
        """The engine's socket."""
        from atoll.client.address import engine_socket

        return engine_socket(self._host)

    @property
    def client(self) -> "Client":
        """The engine; the user's own is started when it does not run, one named by `-H` is not."""
        if self._client is None:
            self._client = self.connect(launch=self._host is None)
        return self._client

    def connect(self, *, launch: bool) -> "Client":
        """A client of its own; with `launch`, the engine is started when it does not run."""
        from atoll.client import Client

        return Client(self.socket, self.launch if launch else None)

    def launch(self, *options: str) -> bool:
        """Start the engine with command-line `options`; False when it runs already."""
        from atoll.client import Client
        from atoll.client.launch import launch_engine
        from atoll.paths import paths

        return launch_engine(paths(), Client(self.socket).is_served, options)

    def fork(self) -> "Client":
        """Another client of the same engine, for another thread."""
        return self.connect(launch=False)

    @staticmethod
    def flush() -> None:
        """Write out what is still held, before something else writes to the same place."""
        sys.stdout.flush()

    @staticmethod
    def print(text: str) -> None:
        """A line on standard output, at once: what follows may be a container's own output."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    @staticmethod
    def warn(text: str) -> None:
        """A line on standard error."""
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
