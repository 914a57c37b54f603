"""The user's terminal and what goes through it."""

from atoll.cli.terminal.conversation import conversation
from atoll.cli.terminal.mode import is_terminal, terminal_size

__all__ = ["conversation", "is_terminal", "terminal_size"]
