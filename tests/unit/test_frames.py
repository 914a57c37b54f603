"""The codec: any fragmentation gives the same frames; nothing that arrives makes it hang, grow or guess."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.channel.frames import (
    MAX_DATA_BYTES,
    MAX_MESSAGE_BYTES,
    Decoder,
    Kind,
    ProtocolViolation,
    decode_credit,
    encode,
    encode_credit,
)

Decoded = list[tuple[Kind, int, bytes]]


def feed(decoder: Decoder, data: bytes) -> Decoded:
    frames: Decoded = []
    while data:
        space = decoder.space()
        assert len(space) > 0
        count = min(len(space), len(data))
        space[:count] = data[:count]
        data = data[count:]
        frames += [(frame.kind, frame.id, bytes(frame.payload)) for frame in decoder.received(count)]
    return frames


def payloads(kind: Kind) -> st.SearchStrategy[bytes]:
    if kind is Kind.CREDIT:
        return st.binary(min_size=4, max_size=4)
    if kind in (Kind.EOF, Kind.STOP):
        return st.just(b"")
    return st.binary(min_size=1, max_size=300)


frames = st.sampled_from(Kind).flatmap(lambda kind: st.tuples(st.just(kind), st.integers(0, 2**32 - 1), payloads(kind)))


@given(sent=st.lists(frames, max_size=12), cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_frames_arrive_the_same_however_the_bytes_are_cut(sent: Decoded, cuts: list[int]) -> None:
    wire = b"".join(b"".join(encode(*frame)) for frame in sent)
    decoder = Decoder()
    received: Decoded = []
    for start, end in pairwise([0, *sorted(cuts), len(wire)]):
        received += feed(decoder, wire[start:end])
    assert received == sent


@given(garbage=st.binary(max_size=2000))
def test_garbage_is_refused_or_waited_for_within_bounds(garbage: bytes) -> None:
    decoder = Decoder()
    try:
        feed(decoder, garbage)
    except ProtocolViolation:
        return
    assert len(decoder.space()) <= MAX_MESSAGE_BYTES + 9


def test_the_largest_message_is_taken_and_its_buffer_given_back() -> None:
    decoder = Decoder()
    small = len(decoder.space())
    message = bytes(MAX_MESSAGE_BYTES)
    after = b"".join(encode(Kind.EOF, 7))
    assert feed(decoder, b"".join(encode(Kind.EVENT, 0, message)) + after) == [
        (Kind.EVENT, 0, message),
        (Kind.EOF, 7, b""),
    ]
    assert len(decoder.space()) == small


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        (Kind.DATA, 0),
        (Kind.DATA, MAX_DATA_BYTES + 1),
        (Kind.REQUEST, 0),
        (Kind.REQUEST, MAX_MESSAGE_BYTES + 1),
        (Kind.EVENT, 2**32 - 1),
        (Kind.CREDIT, 3),
        (Kind.CREDIT, 5),
        (Kind.EOF, 1),
        (Kind.STOP, 1),
        (9, 0),
        (255, 10),
    ],
)
def test_a_wrong_header_is_refused_before_its_payload_is_waited_for(kind: int, length: int) -> None:
    with pytest.raises(ProtocolViolation):
        feed(Decoder(), struct.pack("<IIB", length, 1, kind))


@given(stream=st.integers(0, 2**32 - 1), credit=st.integers(0, 2**32 - 1))
def test_credit_survives_the_wire(stream: int, credit: int) -> None:
    ((kind, number, payload),) = feed(Decoder(), encode_credit(stream, credit))
    assert (kind, number, decode_credit(memoryview(payload))) == (Kind.CREDIT, stream, credit)
