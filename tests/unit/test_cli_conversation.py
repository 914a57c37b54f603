"""A conversation with a container's process: the engine's end is a socket of the test's, ours a pipe or a terminal."""

import os
import pty
import signal
import socket
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from atoll.cli.errors import Failure
from atoll.cli.terminal import conversation
from atoll.cli.terminal.mode import raw_mode
from atoll.client.streams import Hijacked


@pytest.fixture
def ends() -> Iterator[tuple[Hijacked, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield Hijacked(ours, b""), theirs
    theirs.close()


@pytest.fixture
def stdin() -> Iterator[Callable[[int], None]]:
    """Puts a descriptor in the place of standard input, which is put back at the end."""
    before = os.dup(0)
    yield lambda descriptor: (os.dup2(descriptor, 0), os.close(descriptor))[1]
    os.dup2(before, 0)
    os.close(before)


def frame(number: int, data: bytes) -> bytes:
    return bytes([number, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def received(theirs: socket.socket) -> bytes:
    """Everything until the input ends."""
    return b"".join(iter(lambda: theirs.recv(65536), b""))


def test_output_is_apart_and_input_ends_where_ours_does(
    ends: tuple[Hijacked, socket.socket], stdin: Callable[[int], None], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stream, theirs = ends
    reader, writer = os.pipe()
    stdin(reader)
    data = os.urandom(3 << 20)

    def engine() -> None:
        assert received(theirs) == data
        theirs.sendall(frame(1, b"out\x00\xff") + frame(2, b"err"))
        theirs.shutdown(socket.SHUT_WR)

    def person() -> None:
        with os.fdopen(writer, "wb") as file:
            file.write(data)

    threads = [threading.Thread(target=work) for work in (engine, person)]
    with conversation(stream, tty=False, stdin=True, stdout=True, stderr=True, detach_keys=None) as talk:
        for thread in threads:
            thread.start()
        assert talk.hold()
    for thread in threads:
        thread.join()
    assert capfdbinary.readouterr() == (b"out\x00\xff", b"err")


def test_a_process_that_takes_no_input_may_still_speak(
    ends: tuple[Hijacked, socket.socket], stdin: Callable[[int], None], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stream, theirs = ends
    stdin(os.open("/dev/zero", os.O_RDONLY))
    theirs.shutdown(socket.SHUT_RD)
    theirs.sendall(frame(1, b"last words"))
    theirs.shutdown(socket.SHUT_WR)
    with conversation(stream, tty=False, stdin=True, stdout=True, stderr=True, detach_keys=None) as talk:
        assert talk.hold()
    assert capfdbinary.readouterr().out == b"last words"


def test_without_output_it_ends_with_the_input(
    ends: tuple[Hijacked, socket.socket], stdin: Callable[[int], None], tmp_path: Path
) -> None:
    stream, theirs = ends
    file = tmp_path / "input"
    file.write_bytes(b"all there is")
    stdin(os.open(file, os.O_RDONLY))
    with conversation(stream, tty=False, stdin=True, stdout=False, stderr=False, detach_keys=None) as talk:
        assert talk.hold()
    assert received(theirs) == b"all there is"


def test_signals_are_passed_on_and_handlers_put_back(ends: tuple[Hijacked, socket.socket]) -> None:
    stream, theirs = ends
    passed: list[int] = []

    def forward(number: int) -> None:
        passed.append(number)
        if len(passed) == 2:
            theirs.shutdown(socket.SHUT_WR)

    before = signal.getsignal(signal.SIGINT)
    with conversation(
        stream, tty=False, stdin=False, stdout=True, stderr=True, detach_keys=None, forward=forward
    ) as talk:
        # One before the process has started: it is kept for it.
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        assert talk.hold()
    assert passed == [signal.SIGUSR1, signal.SIGINT]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_third_interrupt_ends_us_whatever_the_container_does(ends: tuple[Hijacked, socket.socket]) -> None:
    stream, _ = ends

    def forward(number: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with conversation(
        stream, tty=False, stdin=False, stdout=True, stderr=True, detach_keys=None, forward=forward
    ) as talk:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Failure, match="forcefully exiting"):
            talk.hold()


def test_detach_keys_end_it_and_the_terminal_is_as_before(
    ends: tuple[Hijacked, socket.socket], stdin: Callable[[int], None]
) -> None:
    stream, theirs = ends
    keyboard, terminal = pty.openpty()
    stdin(terminal)
    before = termios.tcgetattr(0)
    with conversation(stream, tty=True, stdin=True, stdout=True, stderr=True, detach_keys="ctrl-a,b") as talk:
        assert termios.tcgetattr(0) != before
        os.write(keyboard, b"ls\r\x01c\x03\x01b")
        assert not talk.hold()
    assert termios.tcgetattr(0) == before
    assert received(theirs) == b"ls\r\x01c\x03"
    os.close(keyboard)


def test_the_terminal_is_restored_when_something_fails(stdin: Callable[[int], None]) -> None:
    keyboard, terminal = pty.openpty()
    stdin(terminal)
    before = termios.tcgetattr(0)
    with pytest.raises(ZeroDivisionError), raw_mode(0):
        raise ZeroDivisionError
    assert termios.tcgetattr(0) == before
    os.close(keyboard)


def test_a_terminal_that_goes_away_is_no_error(stdin: Callable[[int], None]) -> None:
    keyboard, terminal = pty.openpty()
    stdin(terminal)
    with raw_mode(0):
        os.close(keyboard)
