"""Docker's multiplexed streams, and copying them."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.client.streams import Hijacked, copy_output, demultiplex, write_all
from atoll.errors import AtollError

FRAMES = st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)))


def encode(frames: list[tuple[int, bytes]]) -> bytes:
    return b"".join(bytes([number, 0, 0, 0]) + len(data).to_bytes(4, "big") + data for number, data in frames)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


@given(FRAMES, st.lists(st.integers(0, 30)))
def test_frames_are_the_same_however_they_arrive(frames: list[tuple[int, bytes]], sizes: list[int]) -> None:
    found = {1: b"", 2: b""}
    for number, piece in demultiplex(cut(encode(frames), sizes)):
        found[number] += piece
    for number, data in found.items():
        assert data == b"".join(content for stream, content in frames if stream == number)


def test_what_is_no_frame_is_an_error() -> None:
    with pytest.raises(AtollError, match="not made of frames"):
        list(demultiplex([b"hello, world"]))


def test_streams_go_to_their_descriptors_and_those_not_wanted_nowhere() -> None:
    reader, writer = os.pipe()
    copy_output([encode([(1, b"out"), (2, b"err"), (1, b"put")])], {1: writer}, multiplexed=True)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"output"


def test_a_terminals_output_is_copied_as_it_is() -> None:
    reader, writer = os.pipe()
    copy_output([b"\x01\x00", b"raw"], {1: writer, 2: 99}, multiplexed=False)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"\x01\x00raw"


def test_a_descriptor_that_does_not_block_is_written_to_all_the_same() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    data = os.urandom(1 << 20)
    copier = threading.Thread(target=lambda: (write_all(writer, data), os.close(writer)))
    copier.start()
    with os.fdopen(reader, "rb") as file:
        assert file.read() == data
    copier.join()


def test_output_that_nobody_reads_is_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        copy_output([b"x"], {1: writer}, multiplexed=False)
    os.close(writer)


def test_what_came_with_the_head_of_the_response_comes_first() -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(b"later")
    theirs.close()
    stream = Hijacked(ours, b"first ")
    assert b"".join(bytes(chunk) for chunk in stream.chunks()) == b"first later"
    stream.close()


def test_input_ends_while_output_goes_on() -> None:
    ours, theirs = socket.socketpair()
    stream = Hijacked(ours, b"")
    assert stream.try_send(b"question") == 8
    stream.end_input()
    assert theirs.recv(100) == b"question"
    assert theirs.recv(100) == b""
    theirs.sendall(b"answer")
    theirs.close()
    assert b"".join(bytes(chunk) for chunk in stream.chunks()) == b"answer"
    stream.close()


def test_sending_never_waits() -> None:
    ours, theirs = socket.socketpair()
    stream = Hijacked(ours, b"")
    while stream.try_send(b"x" * 65536):
        pass
    assert stream.try_send(b"x") == 0
    theirs.close()
    with pytest.raises(ConnectionError):
        stream.try_send(b"x")
    stream.close()
