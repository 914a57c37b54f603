"""The client of the engine: JSON requests, streams and hijacked connections over the unix socket.

It speaks the Docker Engine API without a version in the path, and Atoll's additions under `/atoll/`.
`containers.py`, `images.py` and `system.py` name the endpoints. Nothing here imports asyncio, aiohttp
or msgspec: `atoll ps` pays for every import.
"""

import json
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from atoll import __version__
from atoll.client.http import Connection, Response
from atoll.client.streams import Hijacked
from atoll.errors import AtollError, Unavailable

if TYPE_CHECKING:
    from atoll.client.shapes import Json, Query


# What stands for the body in an error's answer to HEAD.
_ERROR_HEADER = "x-atoll-error"


class EngineError(AtollError):
    """The engine answered with an error: its HTTP `status`, and the name of the error where it says one."""

    code = "engine"

    def __init__(self, status: int, message: str, name: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.name = name


class Client:
    """Requests to one engine; not for use by several threads.

    `launch` starts the engine and returns when it serves; it is called once, when nothing listens on
    the socket. Without it, an engine that is not there is `Unavailable`.
    """

    def __init__(self, address: Path, launch: Callable[[], object] | None = None) -> None:
        self.address = address
        self._launch = launch
        self._idle: Connection | None = None

    def request(
        self,
        method: str,
        path: str,
        query: "Query | None" = None,
        *,
        body: "Json" = None,
        upload: Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Send a request, `body` as JSON or `upload` as it is; the response's body is the caller's to read.

        Raises `EngineError` for an answer of 400 or above, `Unavailable` when the engine cannot be reached.
        """
        fields = {"User-Agent": f"atoll/{__version__}", **(headers or {})}
        content: bytes | Iterable[bytes] = b""
        if upload is not None:
            content = upload
        elif body is not None:
            fields["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        connection, self._idle = self._idle, None
        if connection is not None and not connection.is_fresh():
            connection.close()
            connection = None
        if connection is None:
            connection = Connection(self._connect())
        response = connection.request(method, path + _query_string(query), fields, content)
        if response.status >= 400:
            message, name = _error_of(response)
            response.close()
            raise EngineError(response.status, message, name)
        return response

    def call(self, method: str, path: str, query: "Query | None" = None, *, body: "Json" = None) -> "Json":
        """A request whose answer is one JSON value (None where it is empty)."""
        response = self.request(method, path, query, body=body)
        content = response.read()
        self._keep(response)
        value: Json = json.loads(content) if content.strip() else None
        return value

    def get(self, path: str, query: "Query | None" = None) -> "Json":
        """GET a JSON value."""
        return self.call("GET", path, query)

    def post(self, path: str, query: "Query | None" = None, body: "Json" = None) -> "Json":
        """POST, with a JSON body or none."""
        return self.call("POST", path, query, body=body)

    def delete(self, path: str, query: "Query | None" = None) -> "Json":
        """DELETE."""
        return self.call("DELETE", path, query)

    def hijack(self, path: str, query: "Query | None" = None, body: "Json" = None) -> Hijacked:
        """POST, and take the connection over for raw bytes both ways."""
        upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
        response = self.request("POST", path, query, body=body, headers=upgrade)
        stream, head = response.hijack()
        return Hijacked(stream, head)

    def reach(self) -> None:
        """See that the engine can be reached, starting it where that is wanted; raises `Unavailable`."""
        self._connect().close()

    def is_served(self) -> bool:
        """Whether an engine listens on the socket now."""
        stream = _dial(self.address)
        if stream is None:
            return False
        stream.close()
        return True

    def engine_pid(self) -> int:
        """The engine's process, as the kernel tells it of who listens."""
        with self._connect() as stream:
            credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[:4], sys.byteorder)

    def close(self) -> None:
        """Close the connection that was kept."""
        if self._idle is not None:
            self._idle.close()
            self._idle = None

    def _keep(self, response: Response) -> None:
        connection = response.connection
        if connection.is_fresh() and self._idle is None:
            self._idle = connection
        else:
            connection.close()

    def _connect(self) -> socket.socket:
        stream = _dial(self.address)
        if stream is None and self._launch is not None:
            launch, self._launch = self._launch, None
            launch()
            stream = _dial(self.address)
        if stream is None:
            raise Unavailable(
                f"cannot connect to the engine at unix://{self.address}: nothing listens there, "
                "is the engine running ('atoll system start')?"
            )
        return stream


def _dial(address: Path) -> socket.socket | None:
    """A connection, or None when nothing listens; any other failure is `Unavailable`."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(str(address))
    except (FileNotFoundError, ConnectionRefusedError):
        stream.close()
        return None
    except OSError as error:
        stream.close()
        raise Unavailable(
            f"cannot connect to the engine at unix://{address}: {(error.strerror or str(error)).lower()}"
        ) from error
    return stream


def _query_string(query: "Query | None") -> str:
    """`?a=1&b=x`; booleans as 1 and 0, None left out."""
    if not query:
        return ""
    items = query.items() if isinstance(query, Mapping) else query
    pairs = [(name, int(value) if isinstance(value, bool) else value) for name, value in items]
    text = urlencode([pair for pair in pairs if pair[1] is not None])
    return f"?{text}" if text else ""


def _error_of(response: Response) -> tuple[str, str]:
    """The message and the error's name in an error response; whatever the body is, something readable."""
    content = response.read() or next(
        (value.encode() for name, value in response.headers.items() if name.lower() == _ERROR_HEADER), b""
    )
    try:
        value: Json = json.loads(content)
    except ValueError:
        value = None
    if isinstance(value, dict) and isinstance(value.get("message"), str):
        return str(value["message"]).strip(), str(value.get("code", ""))
    return content.decode(errors="replace").strip() or f"HTTP status {response.status}", ""
