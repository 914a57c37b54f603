"""From errors to what the user sees: the message, and the exit code.

    1    the engine or we refused                125  the same for `run`, and a flag that is wrong
    126  the command cannot be executed          127  the command is not in the image
    130  Ctrl-C                                  141  nobody reads our output any more

Docker decides between 125, 126 and 127 by the words of the message; ours carry the error's name as well.
"""

from typing import TYPE_CHECKING

from atoll.errors import AtollError

if TYPE_CHECKING:
    import click

REFUSED = 1
ENGINE_ERROR = 125
NOT_EXECUTABLE = 126
NOT_FOUND = 127
INTERRUPTED = 130
BROKEN_PIPE = 141

_NOT_FOUND_WORDS = ("executable file not found", "no such file or directory")
_NOT_EXECUTABLE_WORDS = ("permission denied", "is a directory", "exec format error")


class Failure(Exception):
    """Ends the command with `message` on stderr (none when empty) and `code`."""

    def __init__(self, message: str, code: int = REFUSED, *, see_help: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.see_help = see_help
        """The command whose help to point to; the message then begins with our name, as Docker does it for `run`."""

    def __str__(self) -> str:
        if not self.see_help:
            return self.message
        return f"atoll: {self.message}\n\nRun '{self.see_help} --help' for more information"


def describe(error: AtollError) -> str:
    """The sentence for the user; what the engine said is marked as its."""
    return f"Error response from engine: {error}" if error.code == "engine" else str(error)


def start_exit_code(error: AtollError) -> int:
    """125, 126 or 127 for a container that could not be started; an error of our own is always 125."""
    if error.code != "engine":
        return ENGINE_ERROR
    name = getattr(error, "name", "")
    message = str(error).lower()
    if name == "command-not-found" or (not name and any(words in message for words in _NOT_FOUND_WORDS)):
        return NOT_FOUND
    if name == "command-not-executable" or (not name and any(words in message for words in _NOT_EXECUTABLE_WORDS)):
        return NOT_EXECUTABLE
    return ENGINE_ERROR


def usage_text(error: "click.ClickException") -> str:
    """A usage error as Docker shows it: what is wrong, the usage line, where help is."""
    ctx: click.Context | None = getattr(error, "ctx", None)
    message = error.format_message()
    if ctx is None:
        return message
    path = ctx.command_path
    prefix = "" if error.exit_code == ENGINE_ERROR else "atoll: "
    return f"{prefix}{message}\n\n{ctx.command.get_usage(ctx)}\n\nRun '{path} --help' for more information"
