"""Two connections joined by a socketpair: both ends are the product's own code, or raw bytes for bad peers."""

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.channel import Connection, ProtocolViolation, StreamStopped, decode
from atoll.channel.frames import MAX_MESSAGE_BYTES, WINDOW_BYTES, Kind, encode
from atoll.errors import AgentFailed, AtollError, CommandNotFound
from atoll.model.agent import Exited, Hello, Resize, Signal, Started, Stdio

HELLO = Hello(protocol=1, agent_version="1", kernel="6.1")
Answer = Callable[[Connection, str, msgspec.Raw], Awaitable[msgspec.Struct | None]]


def frame(kind: int, number: int, message: object) -> bytes:
    payload = message if isinstance(message, bytes) else msgspec.msgpack.encode(message)
    return struct.pack("<IIB", len(payload), number, kind) + payload


@asynccontextmanager
async def pair(
    answer: Answer, on_event: Callable[[str, msgspec.Raw], None] | None = None
) -> AsyncIterator[tuple[Connection, Connection]]:
    ours, theirs = socket.socketpair()
    server = Connection(theirs, "the engine")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve(lambda method, parameters: answer(server, method, parameters), HELLO))
        async with Connection(ours, "the agent", on_event) as client:
            yield client, server


@asynccontextmanager
async def raw_peer() -> AsyncIterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        async with Connection(ours, "the agent") as client:
            yield client, theirs


async def echo(_: Connection, method: str, parameters: msgspec.Raw) -> msgspec.Struct | None:
    if method == "refuse":
        raise CommandNotFound("nosuch: no such file or directory")
    if method == "fail":
        raise ZeroDivisionError
    if method == "huge":
        return Hello(protocol=1, agent_version="x" * MAX_MESSAGE_BYTES, kernel="")
    if method == "nothing":
        return None
    return Started(pid=decode(parameters, Resize).rows)


async def test_hello_and_a_request() -> None:
    async with pair(echo) as (client, _):
        assert await client.hello(5) == HELLO
        assert await client.call("size", Resize(id="init", rows=7, columns=1), Started, 5) == Started(pid=7)
        await client.call("nothing", None, None, 5)


async def test_answers_may_come_in_any_order() -> None:
    gates = {rows: asyncio.Event() for rows in range(20)}

    async def wait_for_turn(_: Connection, __: str, parameters: msgspec.Raw) -> Started:
        rows = decode(parameters, Resize).rows
        await gates[rows].wait()
        if rows:
            gates[rows - 1].set()
        return Started(pid=rows)

    async with pair(wait_for_turn) as (client, _), asyncio.TaskGroup() as tasks:
        calls = [
            tasks.create_task(client.call("size", Resize(id="", rows=rows, columns=1), Started, 5)) for rows in gates
        ]
        gates[19].set()
        assert [(await call).pid for call in calls] == list(gates)


async def test_an_error_of_the_handler_is_raised_at_the_caller() -> None:
    async with pair(echo) as (client, _):
        with pytest.raises(CommandNotFound, match="nosuch"):
            await client.call("refuse", None, Started, 5)


async def test_an_unforeseen_error_of_the_handler_is_answered_as_well() -> None:
    async with pair(echo) as (client, _):
        with pytest.raises(AtollError, match="ZeroDivisionError"):
            await client.call("fail", None, Started, 5)
        with pytest.raises(AtollError, match="that cannot be read"):
            await client.call("size", Signal(id="", signal=1), Started, 5)
        with pytest.raises(AgentFailed, match="too long"):
            await client.call("huge", None, Hello, 5)
        await client.call("nothing", None, None, 5)


async def test_a_peer_that_does_not_answer_in_time_has_failed() -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    async with pair(never) as (client, _):
        with pytest.raises(AgentFailed, match=r"the agent did not answer 'ping' within 0.01 s"):
            await client.call("ping", None, None, 0.01)


async def test_requests_under_way_fail_when_the_connection_ends_and_their_handlers_are_cancelled() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def never(*_: object) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with pair(never) as (client, _), asyncio.TaskGroup() as tasks:

        async def call() -> None:
            with pytest.raises(AgentFailed, match="gone"):
                await client.call("ping", None, None, None)

        tasks.create_task(call())
        await started.wait()
        client.close("the test is over")
        await cancelled.wait()
        with pytest.raises(AgentFailed, match="the test is over"):
            await client.call("ping", None, None, None)


async def test_events_come_after_the_data_that_was_sent_before_them() -> None:
    order: list[str] = []
    done = asyncio.Event()

    def on_event(name: str, parameters: msgspec.Raw) -> None:
        order.append(f"{name} {decode(parameters, Exited).code}")
        done.set()

    async def run(server: Connection, _: str, parameters: msgspec.Raw) -> None:
        stream = decode(parameters, Stdio).stdout
        assert stream is not None
        writer = server.open_writer(stream)
        await writer.write(b"output")
        writer.end()
        server.send_event("exited", Exited(id="init", code=3))

    async with pair(run, on_event) as (client, _):
        reader = client.open_reader()
        await client.call("start", Stdio(stdout=reader.stream), None, 5)
        await done.wait()
        order.insert(0, (await reader.read()).decode())
        assert await reader.read() == b""
    assert order == ["output", "exited 3"]


@settings(max_examples=25)
@given(chunks=st.lists(st.binary(min_size=1, max_size=200_000), max_size=8))
def test_a_stream_arrives_whole_in_both_directions_at_once(chunks: list[bytes]) -> None:
    async def send_back(server: Connection, _: str, parameters: msgspec.Raw) -> None:
        stdio = decode(parameters, Stdio)
        assert stdio.stdin is not None
        assert stdio.stdout is not None
        reader, writer = server.open_reader(stdio.stdin), server.open_writer(stdio.stdout)

        async def copy() -> None:
            async for data in reader:
                await writer.write(data)
            writer.end()

        copies.append(asyncio.create_task(copy()))

    copies: list[asyncio.Task[None]] = []

    async def run() -> None:
        async with pair(send_back) as (client, _), asyncio.TaskGroup() as tasks:
            writer, reader = client.open_writer(), client.open_reader()
            await client.call("cat", Stdio(stdin=writer.stream, stdout=reader.stream), None, 5)

            async def send() -> None:
                for chunk in chunks:
                    await writer.write(chunk)
                writer.end()

            tasks.create_task(send())
            received = b"".join([data async for data in reader])
            assert received == b"".join(chunks)

    asyncio.run(run())


async def test_a_reader_that_stops_ends_the_writer() -> None:
    stopped = asyncio.Event()

    async def flood(server: Connection, _: str, parameters: msgspec.Raw) -> None:
        stream = decode(parameters, Stdio).stdout
        assert stream is not None
        writer = server.open_writer(stream)
        try:
            while True:
                await writer.write(bytes(50_000))
        except StreamStopped:
            stopped.set()

    async with pair(flood) as (client, _), asyncio.TaskGroup() as tasks:
        reader = client.open_reader()
        call = tasks.create_task(client.call("yes", Stdio(stdout=reader.stream), None, 5))
        assert await reader.read()
        reader.stop()
        await stopped.wait()
        await call
        assert await reader.read() == b""


async def test_a_slow_reader_bounds_what_a_writer_can_send() -> None:
    sent = 0

    async def flood(server: Connection, _: str, parameters: msgspec.Raw) -> None:
        nonlocal sent
        stream = decode(parameters, Stdio).stdout
        assert stream is not None
        writer = server.open_writer(stream)
        while True:
            await writer.write(bytes(1000))
            sent += 1000

    async with pair(flood) as (client, _), asyncio.TaskGroup() as tasks:
        reader = client.open_reader()
        call = tasks.create_task(client.call("yes", Stdio(stdout=reader.stream), None, None))
        taken = 0
        while taken < 3_000_000:
            taken += len(await reader.read())
            assert sent <= taken + 2 * WINDOW_BYTES
        call.cancel()


@pytest.mark.parametrize("has_unread", [False, True], ids=["closed", "reset"])
async def test_what_a_peer_had_sent_before_it_went_is_read_although_we_cannot_send(has_unread: bool) -> None:
    output = [bytes([number]) * 50_000 for number in range(4)]  # more than is read at once
    async with raw_peer() as (client, peer):
        reader = client.open_reader()
        call = asyncio.ensure_future(client.call("ping", None, None, None))
        if has_unread:
            client.send_event("nobody", Signal(id="", signal=1))
            await asyncio.sleep(0)
        peer.setblocking(True)
        peer.sendall(frame(Kind.HELLO, 0, HELLO) + b"".join(frame(Kind.DATA, reader.stream, data) for data in output))
        peer.close()
        client.send_event("nobody", Signal(id="", signal=1))  # sent before the loop looks for what there is to read
        await client.wait_closed()
        assert await client.hello(5) == HELLO
        received = b""
        while len(received) < 200_000:
            received += await reader.read()
        assert received == b"".join(output)
        with pytest.raises(AgentFailed, match="the agent is gone"):
            await reader.read()
        with pytest.raises(AgentFailed, match="the agent is gone"):
            await call


async def test_an_answer_that_came_before_the_peer_went_is_an_answer() -> None:
    async with raw_peer() as (client, peer):
        peer.setblocking(True)
        peer.sendall(frame(Kind.HELLO, 0, HELLO) + frame(Kind.RESPONSE, 1, Started(pid=7)))
        peer.close()
        assert await client.call("start", None, Started, 5) == Started(pid=7)


async def test_closing_after_reading_takes_what_has_arrived_and_keeps_the_reason() -> None:
    async with raw_peer() as (client, peer):
        reader = client.open_reader()
        await asyncio.get_running_loop().sock_sendall(peer, frame(Kind.DATA, reader.stream, b"last words"))
        client.close_after_reading("its container has failed")
        assert await client.wait_closed() == "its container has failed"
        assert await reader.read() == b"last words"
        with pytest.raises(AgentFailed, match="its container has failed"):
            await reader.read()
        client.close_after_reading("once more")
        assert await client.wait_closed() == "its container has failed"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (frame(Kind.HELLO, 0, HELLO) * 2, "HELLO before or instead"),
        (frame(Kind.EVENT, 0, ["exited", None]), "before or instead of its one HELLO"),
        (frame(Kind.HELLO, 0, {"protocol": "x"}), "a Hello that cannot be read"),
        (frame(Kind.HELLO, 0, b"\xc1"), "a Hello that cannot be read"),
        (frame(Kind.HELLO, 0, b"\x91" * MAX_MESSAGE_BYTES), "a Hello that cannot be read"),
        (frame(Kind.REQUEST, 1, ["start", None]), "not its part"),
        (frame(Kind.HELLO, 0, HELLO) + frame(Kind.EVENT, 0, [1, None]), "cannot be read"),
        (frame(Kind.HELLO, 0, HELLO) + frame(Kind.EVENT, 0, b"\x92\xa1\xff\xc0"), "cannot be read"),
        (frame(Kind.HELLO, 0, HELLO) + frame(Kind.RESPONSE, 5, None), "never sent"),
        (frame(Kind.HELLO, 0, HELLO) + frame(Kind.ERROR, 1, {"code": 5}), "cannot be read|never sent"),
        (frame(17, 0, b""), "unknown kind"),
    ],
)
async def test_a_peer_that_breaks_the_rules_is_cut_off_with_the_reason(wire: bytes, reason: str) -> None:
    async with raw_peer() as (client, peer):
        await asyncio.get_running_loop().sock_sendall(peer, wire)
        async with asyncio.timeout(5):
            assert re.search(reason, await client.wait_closed())


async def test_data_beyond_the_credit_cuts_the_peer_off() -> None:
    async with raw_peer() as (client, peer):
        reader = client.open_reader()
        flood = b"".join(encode(Kind.DATA, reader.stream, bytes(65_536))) * 5
        await asyncio.get_running_loop().sock_sendall(peer, flood)
        assert "than its credit allows" in await client.wait_closed()


async def test_a_result_of_the_wrong_shape_cuts_the_peer_off() -> None:
    async def wrong(*_: object) -> Hello:
        return HELLO

    async with pair(wrong) as (client, _):
        with pytest.raises(AgentFailed, match="a Started that cannot be read"):
            await client.call("start", None, Started, 5)
        assert client.is_closed


async def test_a_peer_that_does_not_take_what_it_asked_for_is_cut_off() -> None:
    async with raw_peer() as (client, _):
        while not client.is_closed:
            client.send(*encode(Kind.EVENT, 0, bytes(MAX_MESSAGE_BYTES)))
        assert await client.wait_closed() == "it does not take its answers"


@settings(max_examples=150)
@given(garbage=st.binary(max_size=300), said_hello=st.booleans(), kinds=st.lists(st.integers(0, 8), max_size=6))
def test_garbage_never_leaves_anybody_waiting(garbage: bytes, said_hello: bool, kinds: list[int]) -> None:
    async def run() -> None:
        async with raw_peer() as (client, peer):
            wire = frame(Kind.HELLO, 0, HELLO) if said_hello else b""
            wire += b"".join(frame(kind, 1, garbage[:40]) for kind in kinds) + garbage
            reader, writer = client.open_reader(), client.open_writer()
            async with asyncio.TaskGroup() as tasks, asyncio.timeout(5):
                tasks.create_task(expect_failure(client.call("ping", None, Started, None)))
                tasks.create_task(expect_failure(read_all(reader)))
                tasks.create_task(expect_failure(writer.write(bytes(WINDOW_BYTES * 2))))
                await asyncio.get_running_loop().sock_sendall(peer, wire)
                peer.shutdown(socket.SHUT_WR)
                await client.wait_closed()

    async def read_all(reader: AsyncIterable[bytes]) -> None:
        async for _ in reader:
            pass

    async def expect_failure(waiting: Awaitable[object]) -> None:
        with suppress(AtollError, StreamStopped):
            await waiting

    asyncio.run(run())


async def test_a_server_refuses_a_flood_of_requests_and_repeated_numbers() -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    for wire in (
        frame(Kind.REQUEST, 1, ["ping", None]) * 2,
        b"".join(frame(Kind.REQUEST, number, ["ping", None]) for number in range(5000)),
    ):
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            async with asyncio.TaskGroup() as tasks:
                server = Connection(ours, "the engine")
                serving = tasks.create_task(server.serve(never, HELLO))
                await asyncio.get_running_loop().sock_sendall(theirs, wire)
                await serving
                assert "request" in await server.wait_closed()


def test_what_a_struct_is_not_is_a_violation() -> None:
    with pytest.raises(ProtocolViolation, match="Started"):
        decode(b"\x80", Started)
