"""A template cut into text and actions, and an action into tokens."""

import re
from dataclasses import dataclass

from atoll.cli.template.errors import TemplateError

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\\n]|\\.)*"|`[^`]*`)
    | (?P<number>[+-]?\d+(?:\.\d+)?)
    | (?P<field>(?:\.[A-Za-z_]\w*)+|\.)
    | (?P<variable>\$\w*(?:\.[A-Za-z_]\w*)*)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<declare>:=)
    | (?P<punctuation>[|(),=])
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """`kind` is a group of the expression above; `text` as written."""

    kind: str
    text: str


@dataclass(frozen=True)
class Piece:
    """Text, or the inside of `{{...}}`."""

    text: str
    is_action: bool


def pieces(template: str) -> list[Piece]:
    """Text and actions in turn; `{{-` and `-}}` trim the text beside them, comments are left out."""
    found: list[Piece] = []
    rest, trim = template, False
    while True:
        text, opened, after = rest.partition("{{")
        if trim:
            text = text.lstrip()
        if not opened:
            found.append(Piece(text, False))
            return found
        action, rest = _action(after)
        if re.match(r"-\s", action):
            text, action = text.rstrip(), action[1:]
        trim = re.search(r"\s-$", action) is not None
        action = action[:-1].strip() if trim else action.strip()
        found.append(Piece(text, False))
        if not action.startswith("/*"):
            found.append(Piece(action, True))


def tokens(action: str) -> list[Token]:
    """The tokens of an action."""
    found = []
    position = 0
    text = action.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise parse_error(f"unexpected {text[position:].lstrip()[:1]!r} in action")
        found.append(Token(match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def parse_error(message: str) -> TemplateError:
    """An error in the text of the template."""
    return TemplateError(f"failed to parse template: {message}")


def _action(text: str) -> tuple[str, str]:
    """The inside of an action and what follows it; braces within quotes do not end it."""
    position = 0
    while position < len(text):
        character = text[position]
        if text.startswith("}}", position):
            return text[:position], text[position + 2 :]
        if character in '"`':
            end = re.compile(r'"(?:[^"\\\n]|\\.)*"|`[^`]*`').match(text, position)
            if end is None:
                raise parse_error("unterminated quoted string")
            position = end.end()
        else:
            position += 1
    raise parse_error("unclosed action")
