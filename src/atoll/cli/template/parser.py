"""Tokens to a tree: pipelines, `if`, `with`, `range`, variables."""

import json
from dataclasses import dataclass, field

from atoll.cli.template.lexer import Piece, Token, parse_error, pieces, tokens


@dataclass(frozen=True)
class Literal:
    """A string, number, `true`, `false` or `nil`."""

    value: str | int | float | bool | None


@dataclass(frozen=True)
class Path:
    """`.A.B` (of the dot), `$x.A` (of a variable, named with its dollar sign), `(...).A` (of a pipeline)."""

    names: tuple[str, ...]
    variable: str | None = None
    of: "Pipeline | None" = None


@dataclass(frozen=True)
class Call:
    """A function with its arguments."""

    function: str
    arguments: tuple["Expression", ...]


Expression = Literal | Path | Call


@dataclass(frozen=True)
class Pipeline:
    """Expressions, each the last argument of the next; `variable` is what it declares or sets."""

    stages: tuple[Expression, ...]
    variable: str | None = None


@dataclass(frozen=True)
class Text:
    """What is printed as it is."""

    text: str


@dataclass(frozen=True)
class Branch:
    """`if`, `with` or `range`, with the body and what `else` leads to; `names` are `range $i, $x := ...`."""

    kind: str
    pipeline: Pipeline
    names: tuple[str, ...] = ()
    body: list["Node"] = field(default_factory=list)
    otherwise: list["Node"] = field(default_factory=list)


Node = Text | Pipeline | Branch


def parse(template: str) -> list[Node]:
    """The tree of a template; raises `TemplateError`."""
    return _Parser(pieces(template)).document()


class _Parser:
    def __init__(self, found: list[Piece]) -> None:
        self._pieces = found[::-1]

    def document(self) -> list[Node]:
        nodes, end = self._block()
        if end:
            raise parse_error(f"unexpected {{{{{end[0].text}}}}}")
        return nodes

    def _block(self) -> tuple[list[Node], list[Token]]:
        """Nodes up to an `else` or `end`, and that action's tokens (none at the end of the template)."""
        nodes: list[Node] = []
        while self._pieces:
            piece = self._pieces.pop()
            if not piece.is_action:
                if piece.text:
                    nodes.append(Text(piece.text))
                continue
            action = tokens(piece.text)
            if not action:
                raise parse_error("missing value for command")
            keyword = action[0].text if action[0].kind == "word" else ""
            if keyword in ("end", "else"):
                return nodes, action
            nodes.append(self._branch(keyword, action[1:]) if keyword in ("if", "with", "range") else _pipeline(action))
        return nodes, []

    def _branch(self, kind: str, action: list[Token]) -> Branch:
        names: tuple[str, ...] = ()
        declared = next((index for index, token in enumerate(action) if token.kind == "declare"), None)
        if declared is not None:
            names = tuple(token.text for token in action[:declared] if token.kind == "variable")
            action = action[declared + 1 :]
        branch = Branch(kind, _pipeline(action), names)
        body, end = self._block()
        branch.body.extend(body)
        if end and end[0].text == "else":
            if len(end) > 1:
                branch.otherwise.append(self._branch(end[1].text, end[2:]))
                return branch
            otherwise, end = self._block()
            branch.otherwise.extend(otherwise)
        if not end or end[0].text != "end":
            raise parse_error("unexpected EOF")
        return branch


def _pipeline(action: list[Token]) -> Pipeline:
    variable = None
    if len(action) > 1 and action[0].kind == "variable" and action[1].text in (":=", "="):
        variable, action = action[0].text, action[2:]
    stream = action[::-1]
    pipeline = Pipeline(_stages(stream), variable)
    if stream:
        raise parse_error(f"unexpected {stream[-1].text!r} in command")
    return pipeline


def _stages(stream: list[Token]) -> tuple[Expression, ...]:
    """Commands between `|`, up to a closing parenthesis or the end."""
    stages = [_command(stream)]
    while stream and stream[-1].text == "|":
        stream.pop()
        stages.append(_command(stream))
    return tuple(stages)


def _command(stream: list[Token]) -> Expression:
    words: list[Expression] = []
    function = None
    while stream and stream[-1].text not in ("|", ")"):
        token = stream.pop()
        if token.kind == "word" and token.text not in ("true", "false", "nil") and not words and function is None:
            function = token.text
        else:
            words.append(_operand(token, stream))
    if function is not None:
        return Call(function, tuple(words))
    if not words:
        raise parse_error("missing value for command")
    if len(words) > 1:
        raise parse_error("can't give argument to non-function")
    return words[0]


def _operand(token: Token, stream: list[Token]) -> Expression:
    if token.text == "(":
        pipeline = Pipeline(_stages(stream))
        if not stream or stream.pop().text != ")":
            raise parse_error("unclosed left paren")
        follows = stream and stream[-1].kind == "field" and stream[-1].text != "."
        return Path(_names(stream.pop().text) if follows else (), of=pipeline)
    if token.kind == "field":
        return Path(_names(token.text))
    if token.kind == "variable":
        variable, *names = token.text.split(".")
        return Path(tuple(names), variable)
    if token.kind == "number":
        return Literal(float(token.text) if "." in token.text else int(token.text))
    if token.kind == "string":
        return Literal(token.text[1:-1] if token.text[0] == "`" else json.loads(token.text))
    if token.kind == "word" and token.text in ("true", "false", "nil"):
        return Literal({"true": True, "false": False, "nil": None}[token.text])
    if token.kind == "word":
        return Call(token.text, ())
    raise parse_error(f"unexpected {token.text!r} in operand")


def _names(field_text: str) -> tuple[str, ...]:
    return tuple(name for name in field_text.split(".") if name)
