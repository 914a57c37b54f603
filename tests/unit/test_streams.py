"""Streams and credit, without a socket: two ends joined by a list of frames."""

import asyncio
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.channel.frames import (
    CREDIT_STEP_BYTES,
    MAX_DATA_BYTES,
    WINDOW_BYTES,
    Decoder,
    Kind,
    ProtocolViolation,
    decode_credit,
)
from atoll.channel.streams import StreamReader, StreamsReader, StreamStopped, StreamWriter
from atoll.errors import AgentFailed


class Wire:
    """Frames that one end has queued, as the other end would decode them."""

    def __init__(self) -> None:
        self.frames: deque[tuple[Kind, int, bytes]] = deque()
        self.forgotten: set[int] = set()
        self._decoder = Decoder()

    def send(self, *parts: bytes | memoryview) -> None:
        data = b"".join(parts)
        space = self._decoder.space()
        space[: len(data)] = data
        self.frames.extend(
            (kind, number, bytes(payload)) for kind, number, payload in self._decoder.received(len(data))
        )

    async def room(self) -> None:
        return

    def forget(self, stream: int) -> None:
        self.forgotten.add(stream)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_writer_stops_when_its_credit_is_used_up_and_goes_on_with_more() -> None:
    wire = Wire()
    writer = StreamWriter(wire, 1)
    writing = asyncio.create_task(writer.write(bytes(WINDOW_BYTES + 10)))
    await settle()
    assert sum(len(payload) for _, _, payload in wire.frames) == WINDOW_BYTES
    assert not writing.done()
    writer.credit(10)
    await writing
    assert sum(len(payload) for _, _, payload in wire.frames) == WINDOW_BYTES + 10
    assert max(len(payload) for _, _, payload in wire.frames) == MAX_DATA_BYTES


async def test_credit_beyond_the_window_is_refused() -> None:
    with pytest.raises(ProtocolViolation):
        StreamWriter(Wire(), 1).credit(1)


async def test_a_stopped_writer_drops_what_it_has_and_ends() -> None:
    wire = Wire()
    writer = StreamWriter(wire, 1)
    writing = asyncio.create_task(writer.write(bytes(WINDOW_BYTES * 2)))
    await settle()
    writer.stopped()
    with pytest.raises(StreamStopped):
        await writing
    assert wire.frames[-1] == (Kind.EOF, 1, b"")
    writer.end()
    assert [kind for kind, _, _ in wire.frames].count(Kind.EOF) == 1


async def test_data_beyond_the_credit_is_refused() -> None:
    reader = StreamsReader(Wire(), (1,))
    for _ in range(WINDOW_BYTES // MAX_DATA_BYTES):
        reader.receive(1, memoryview(bytes(MAX_DATA_BYTES)))
    with pytest.raises(ProtocolViolation):
        reader.receive(1, memoryview(b"x"))


async def test_credit_is_given_back_in_steps_and_not_before_data_is_read() -> None:
    wire = Wire()
    reader = StreamReader(StreamsReader(wire, (1,)))
    merged = reader._streams
    merged.receive(1, memoryview(bytes(CREDIT_STEP_BYTES - 1)))
    merged.receive(1, memoryview(b"xy"))
    assert not wire.frames
    await reader.read()
    assert not wire.frames
    await reader.read()
    ((kind, stream, payload),) = wire.frames
    assert (kind, stream, decode_credit(memoryview(payload))) == (Kind.CREDIT, 1, CREDIT_STEP_BYTES + 1)


async def test_pieces_of_two_streams_come_in_the_order_of_arrival() -> None:
    reader = StreamsReader(Wire(), (1, 2))
    for stream, data in [(1, b"a"), (2, b"b"), (1, b"c"), (1, b"d")]:
        reader.receive(stream, memoryview(data))
    reader.finish(2)
    reader.finish(1)
    seen = []
    while piece := await reader.read():
        seen.append(tuple(piece))
    assert seen == [(1, b"a"), (2, b"b"), (1, b"cd"), (2, b""), (1, b"")]


async def test_single_bytes_of_alternating_streams_are_not_kept_one_by_one() -> None:
    reader = StreamsReader(Wire(), (1, 2))
    for _ in range(WINDOW_BYTES):
        reader.receive(1, memoryview(b"x"))
        reader.receive(2, memoryview(b"y"))
    assert len(reader._unread) < 10_000
    totals = {1: 0, 2: 0}
    reader.finish(1)
    reader.finish(2)
    while piece := await reader.read():
        totals[piece.stream] += len(piece.data)
    assert totals == {1: WINDOW_BYTES, 2: WINDOW_BYTES}


async def test_what_arrived_before_the_connection_broke_is_read_and_then_the_error() -> None:
    merged = StreamsReader(Wire(), (1,))
    reader = StreamReader(merged)
    merged.receive(1, memoryview(b"last words"))
    merged.fail(AgentFailed("the agent is gone: killed"))
    assert await reader.read() == b"last words"
    with pytest.raises(AgentFailed, match="killed"):
        await reader.read()


async def test_a_reader_that_stops_says_so_and_takes_no_more() -> None:
    wire = Wire()
    merged = StreamsReader(wire, (1,))
    merged.receive(1, memoryview(b"dropped"))
    StreamReader(merged).stop()
    assert wire.frames[-1] == (Kind.STOP, 1, b"")
    assert wire.forgotten == {1}
    assert await merged.read() is None


steps = st.lists(
    st.one_of(st.tuples(st.just("write"), st.integers(1, 200_000)), st.tuples(st.just("read"), st.just(0)))
)


@given(steps=steps)
def test_credit_is_never_exceeded_and_nothing_is_lost(steps: list[tuple[str, int]]) -> None:
    """Every frame is delivered at once; `receive` itself refuses what exceeds the credit."""

    async def run() -> None:
        there, back = Wire(), Wire()
        writer, merged = StreamWriter(there, 1), StreamsReader(back, (1,))
        written = read = 0

        async def deliver() -> None:
            await settle()
            while there.frames or back.frames:
                while there.frames:
                    _, _, payload = there.frames.popleft()
                    merged.receive(1, memoryview(payload))
                while back.frames:
                    writer.credit(decode_credit(memoryview(back.frames.popleft()[2])))
                await settle()

        async with asyncio.TaskGroup() as tasks:
            writing: asyncio.Task[None] | None = None
            for verb, count in steps:
                if verb == "write" and (writing is None or writing.done()):
                    writing = tasks.create_task(writer.write(bytes(count)))
                    written += count
                elif verb == "read" and merged._unread:
                    piece = await merged.read()
                    assert piece is not None
                    read += len(piece.data)
                await deliver()
            while read < written:
                piece = await merged.read()
                assert piece is not None
                read += len(piece.data)
                await deliver()
        assert read == written

    asyncio.run(run())
