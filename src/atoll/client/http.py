"""One HTTP/1.1 connection to the engine over its unix socket, one request at a time.

h11 does the protocol; this file moves the bytes. A response is read as a whole, in chunks, in lines, or
not at all: `Response.hijack` takes the socket away once the head is read, as Docker's attach does.
"""

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from select import POLLIN, poll

import h11

from atoll.errors import AtollError, Unavailable

RECEIVE_BYTES = 1 << 18
"""How much is asked of the socket at once: what its buffer can hold."""


class Connection:
    """A connected socket and the state of HTTP on it."""

    def __init__(self, stream: socket.socket) -> None:
        self.socket = stream
        self._protocol = h11.Connection(our_role=h11.CLIENT)

    def is_fresh(self) -> bool:
        """Whether another request can be sent: the engine has neither closed it nor said anything unasked."""
        if self._protocol.our_state is not h11.IDLE:
            return False
        waiting = poll()
        waiting.register(self.socket, POLLIN)
        return not waiting.poll(0)

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] = b""
    ) -> "Response":
        """Send a request and read the head of its answer; a `body` of pieces is sent chunked.

        Raises `Unavailable` when the engine goes away meanwhile.
        """
        fields = [("Host", "atoll"), *headers.items()]
        if isinstance(body, bytes):
            fields.append(("Content-Length", str(len(body))))
            pieces: Iterable[bytes] = (body,) if body else ()
        else:
            fields.append(("Transfer-Encoding", "chunked"))
            pieces = body
        # An engine that refuses an upload answers and closes before all is sent: the answer is what matters.
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(h11.Request(method=method, target=target, headers=fields))
            for piece in pieces:
                self._send(h11.Data(data=piece))
        with suppress(BrokenPipeError, ConnectionResetError):
            self._send(h11.EndOfMessage())
        while True:
            event = self.next_event()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                return Response(self, event)

    def next_event(self) -> object:
        """The next thing that the engine said."""
        while True:
            try:
                event = self._protocol.next_event()
                if event is not h11.NEED_DATA:
                    return event
                self._protocol.receive_data(self.socket.recv(RECEIVE_BYTES))
            except (h11.RemoteProtocolError, OSError) as error:
                raise Unavailable(
                    "the engine closed the connection before it had answered: has it ended? "
                    f"see 'atoll system logs' ({error})"
                ) from error

    def trailing_bytes(self) -> bytes:
        """What was received beyond the head of a hijacked response."""
        return self._protocol.trailing_data[0]

    def finish(self) -> None:
        """Make ready for the next request after a whole response, where the engine keeps the connection."""
        if self._protocol.our_state is h11.DONE and self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def _send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        for piece in self._protocol.send_with_data_passthrough(event) or ():
            self.socket.sendall(piece)


class Response:
    """An answer whose head is read; the body is still on the socket."""

    def __init__(self, connection: Connection, head: h11.Response | h11.InformationalResponse) -> None:
        self.status = head.status_code
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        self.connection = connection

    def chunks(self) -> Iterator[bytes]:
        """The body, as it comes."""
        while True:
            event = self.connection.next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.connection.finish()
                return
            else:
                raise AtollError(f"the engine broke HTTP in the middle of an answer: {event!r}")

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def lines(self) -> Iterator[bytes]:
        """The body line by line, without line ends, as each is complete; empty lines are left out."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield line.rstrip(b"\r")
        if rest.strip():
            yield rest

    def hijack(self) -> tuple[socket.socket, bytes]:
        """The socket, now the caller's, and what was already received from it."""
        return self.connection.socket, self.connection.trailing_bytes()

    def close(self) -> None:
        """Drop the connection with whatever was not read."""
        self.connection.close()
