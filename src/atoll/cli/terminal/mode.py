"""The terminal itself: its size, and raw mode that is always undone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def is_terminal(descriptor: int) -> bool:
    """Whether it is open and a terminal."""
    return os.isatty(descriptor)


def terminal_size(descriptor: int = 1) -> tuple[int, int] | None:
    """Rows and columns, None when it is no terminal or does not know them."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


@contextmanager
def raw_mode(descriptor: int) -> Iterator[None]:
    """Every key reaches us as it is typed, Ctrl-C included; nothing is echoed. Undone at the end."""
    # Only here: most commands have nothing to do with a terminal.
    import termios
    import tty

    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor, termios.TCSANOW)
        yield
    finally:
        # The terminal may be gone, which is no reason to fail.
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
