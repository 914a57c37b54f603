"""A person, or a pipe, and a container's process: stdin one way, output the other, signals and window size aside.

Output is copied by a thread of its own with blocking writes, so that a slow reader slows the container and
nothing is buffered; the main thread waits for keys, signals and the end of the output.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from select import POLLIN, POLLOUT, poll

from atoll.cli.terminal.detach import DEFAULT_KEYS, DetachKeys, parse_detach_keys
from atoll.cli.terminal.mode import is_terminal, raw_mode, terminal_size
from atoll.cli.terminal.signals import SignalQueue, forwarded
from atoll.client.streams import Hijacked, copy_output
from atoll.errors import AtollError

READ_BYTES = 1 << 16

Resize = Callable[[int, int], None]
Forward = Callable[[int], None]


class Conversation:
    """Between our descriptors and a hijacked connection; made by `conversation`."""

    def __init__(
        self,
        stream: Hijacked,
        *,
        stdin: int | None,
        outputs: Mapping[int, int],
        tty: bool,
        keys: DetachKeys,
        signals: SignalQueue,
        resize: Resize | None,
        redraw: bool,
        forward: Forward | None,
    ) -> None:
        self._stream = stream
        self._stdin = stdin
        self._outputs = outputs
        self._tty = tty
        self._keys = keys
        self._signals = signals
        self._resize = resize
        self._redraw = redraw
        self._forward = forward
        self._unsent = memoryview(b"")
        self._failure: BaseException | None = None
        self._is_detached = False

    def hold(self) -> bool:
        """Talk until the process's output ends; False when the user detached instead.

        Without output to copy, it ends with the input. Raises `BrokenPipeError` when nobody reads our output.
        """
        if self._redraw:
            # Programs draw their screen anew when its size changes.
            self._tell_size(more=1)
        self._tell_size()
        ended, tell_ended = os.pipe()
        copier = threading.Thread(target=self._copy, args=(tell_ended,), daemon=True)
        try:
            if self._outputs:
                copier.start()
            self._serve(ended)
        finally:
            os.close(ended)
        if self._is_detached:
            return False
        if self._outputs:
            copier.join()
        if self._failure is not None:
            raise self._failure
        return True

    def _copy(self, tell_ended: int) -> None:
        try:
            copy_output(self._stream.chunks(), self._outputs, multiplexed=not self._tty)
        except (OSError, AtollError) as error:
            self._failure = error
        finally:
            os.close(tell_ended)

    def _serve(self, ended: int) -> None:
        while not self._is_detached:
            waiting = poll()
            waiting.register(self._signals.descriptor, POLLIN)
            if self._outputs:
                waiting.register(ended, POLLIN)
            if self._unsent:
                waiting.register(self._stream.socket, POLLOUT)
            elif self._stdin is not None:
                waiting.register(self._stdin, POLLIN)
            elif not self._outputs:
                return
            ready = {descriptor for descriptor, _ in waiting.poll()}
            if self._signals.descriptor in ready:
                self._take_signals()
            if ended in ready:
                return
            if self._unsent:
                self._send()
            elif self._stdin in ready:
                self._read()

    def _read(self) -> None:
        """Take what was typed. A stdin that cannot be read has ended."""
        data = b""
        if self._stdin is not None:
            with suppress(OSError):
                data = os.read(self._stdin, READ_BYTES)
        if not data:
            self._stdin = None
            self._stream.end_input()
            return
        passed, self._is_detached = self._keys.feed(data)
        self._unsent = memoryview(passed)
        self._send()

    def _send(self) -> None:
        """Send what fits; a process that takes no more input may still have something to say."""
        try:
            self._unsent = self._unsent[self._stream.try_send(self._unsent) :] if self._unsent else self._unsent
        except ConnectionError:
            self._unsent = memoryview(b"")
            self._stdin = None

    def _take_signals(self) -> None:
        for number in self._signals.take():
            if number == signal.SIGWINCH:
                self._tell_size()
            elif self._forward is not None:
                # The process may have ended meanwhile.
                with suppress(AtollError):
                    self._forward(number)

    def _tell_size(self, more: int = 0) -> None:
        size = terminal_size() if self._resize is not None else None
        if size is not None and self._resize is not None:
            with suppress(AtollError):
                self._resize(size[0] + more, size[1] + more)


@contextmanager
def conversation(
    stream: Hijacked,
    *,
    tty: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
    detach_keys: str | None,
    resize: Resize | None = None,
    redraw: bool = False,
    forward: Forward | None = None,
) -> Iterator[Conversation]:
    """Raw mode, where there is a terminal to be read, and signals caught; start the process inside.

    `tty`: the process has a terminal, `resize` is told the size of ours (with `redraw` another one first).
    `forward` is given the signals that we get; without it they do to us what they always do.
    """
    with ExitStack() as stack:
        stack.callback(stream.close)
        signals = SignalQueue()
        stack.callback(signals.close)
        keyboard = stdin and tty and is_terminal(0)
        if keyboard:
            stack.enter_context(raw_mode(0))
        caught = forwarded() if forward is not None else set()
        if tty and resize is not None:
            caught.add(signal.SIGWINCH)
        stack.enter_context(signals.catching(caught))
        outputs = {1: 1} if stdout else {}
        if stderr and not tty:
            outputs[2] = 2
        yield Conversation(
            stream,
            stdin=0 if stdin else None,
            outputs=outputs,
            tty=tty,
            keys=DetachKeys(parse_detach_keys(detach_keys or DEFAULT_KEYS) if keyboard else b""),
            signals=signals,
            resize=resize if tty else None,
            redraw=redraw,
            forward=forward,
        )
