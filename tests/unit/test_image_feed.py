"""Bytes from the event loop to a thread: all of them, in order, and never more than a window ahead."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll.image.feed import consume
from atoll.image.tarstream import Source

MIB = 1 << 20


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(1, 120))
def test_what_is_read_is_what_was_sent_whatever_the_pieces(pieces: list[bytes], size: int) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    def read_all(source: Source) -> list[bytes]:
        return list(iter(lambda: source.read(size), b""))

    read = asyncio.run(consume(chunks(), read_all))
    assert b"".join(read) == b"".join(pieces)
    assert all(len(data) <= size for data in read)


async def test_a_slow_reader_slows_the_sender_down_and_loses_nothing() -> None:
    sent = 0
    ahead: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(256):
            data = bytes([number]) * (MIB // 8)
            sent += len(data)
            yield data

    def read_slowly(source: Source) -> bytes:
        read, firsts = 0, bytearray()
        while data := source.read(MIB // 8):
            ahead.append(sent - read)
            read += len(data)
            firsts += data[:1]
        return bytes(firsts)

    assert await consume(chunks(), read_slowly) == bytes(range(256))
    assert max(ahead) <= 5 * MIB


async def test_an_error_of_the_sender_reaches_the_reader_after_what_was_sent() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"whole"
        raise ConnectionResetError("gone")

    read = []

    def read_all(source: Source) -> None:
        while data := source.read(3):
            read.append(data)

    with pytest.raises(ConnectionResetError):
        await consume(chunks(), read_all)
    assert b"".join(read) == b"whole"
