"""Flags as Docker's command line has them (Go's pflag), on top of click.

`--name value`, `--name=value`, `-n value`, `-nvalue`, `-n=value`, `-it`, `--rm=false`. `canonical` rewrites a
command line to `--name=value` tokens, which click then converts and stores; the errors are pflag's.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., object])
FLAG_ERROR_CODE = 125


class FlagError(click.UsageError):
    """A flag that does not exist, lacks its value, or has a value that is not one."""

    exit_code = FLAG_ERROR_CODE


class HelpWanted(Exception):
    """`--help` was among the flags."""


if TYPE_CHECKING:
    ParamType = click.ParamType[object]
else:
    # Generic only in click 8.4 and later, and only for type checkers.
    ParamType = click.ParamType


class Kind(ParamType):
    """What a flag's value is: `name` as help shows it, `parse` raising `ValueError` for what it is not."""

    def __init__(self, name: str, parse: Callable[[str], object]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """The parsed value; click passes defaults through here as well."""
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except ValueError as error:
            names = shown_names(param) if isinstance(param, click.Option) else ""
            raise FlagError(f'invalid argument "{value}" for "{names}" flag: {error}', ctx) from error


def _parse_truth(text: str) -> bool:
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


def _parse_integer(text: str) -> int:
    digits = text.removeprefix("-").removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax')
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": value out of range')
    return number


STRING = Kind("string", str)
INTEGER = Kind("int", _parse_integer)
TRUTH = Kind("", _parse_truth)
LIST = Kind("list", str)


class Switch(click.Option):
    """A flag that is given or not; `--flag=false` takes it back."""


def flag(
    *names: str, help: str, kind: Kind = STRING, multiple: bool = False, default: object = None
) -> Callable[[Command], Command]:
    """Decorator: a flag with a value, None (or an empty tuple, where it may be repeated) when it is not given."""
    if multiple:
        return click.option(*names, type=kind, multiple=True, help=help)
    return click.option(*names, type=kind, default=default, help=help)


def switch(*names: str, help: str, default: bool | None = False) -> Callable[[Command], Command]:
    """Decorator: a flag without a value; `default` None tells one that is not given from one that is false."""
    return click.option(*names, cls=Switch, type=TRUTH, default=default, help=help)


def canonical(
    options: Sequence[click.Parameter], line: Sequence[str], *, interspersed: bool
) -> tuple[list[str], list[str]]:
    """The flags of a command line as `--name=value` tokens, and its arguments.

    Without `interspersed` the first argument ends the flags. Raises `FlagError`, or `HelpWanted`.
    """
    known = {name: option for option in options if isinstance(option, click.Option) for name in option.opts}
    tokens: list[str] = []
    arguments: list[str] = []
    rest = list(line)
    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            if not interspersed:
                arguments += rest
                break
        elif word.startswith("--"):
            tokens.append(_long(known, word, rest))
        else:
            tokens += _short(known, word, rest)
    return tokens, arguments


def _long(known: dict[str, click.Option], word: str, rest: list[str]) -> str:
    name, separator, value = word.partition("=")
    option = known.get(name)
    if option is None:
        if name == "--help":
            raise HelpWanted
        raise FlagError(f"unknown flag: {name}")
    if not separator and not isinstance(option, Switch):
        if not rest:
            raise FlagError(f"flag needs an argument: {name}")
        value = rest.pop(0)
    return f"{name}={value}" if separator or not isinstance(option, Switch) else f"{name}=true"


def _short(known: dict[str, click.Option], word: str, rest: list[str]) -> list[str]:
    """A word of short flags: switches, and at most one with a value, which is the rest of it or the next word."""
    tokens = []
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        option = known.get(f"-{letter}")
        if option is None:
            if letter == "h":
                raise HelpWanted
            raise FlagError(f"unknown shorthand flag: '{letter}' in {word}")
        name = long_name(option)
        if letters.startswith("="):
            value, letters = letters[1:], ""
        elif isinstance(option, Switch):
            value = "true"
        elif letters:
            value, letters = letters, ""
        elif rest:
            value = rest.pop(0)
        else:
            raise FlagError(f"flag needs an argument: '{letter}' in {word}")
        tokens.append(f"{name}={value}")
    return tokens


def shown_names(option: click.Option) -> str:
    """`-t, --timeout`, or the long name alone; further long names are other ways to write it."""
    short = [name for name in option.opts if not name.startswith("--")]
    return ", ".join([*short, long_name(option)])


def long_name(option: click.Option) -> str:
    """A flag's name with two dashes, which every flag has."""
    return next(name for name in option.opts if name.startswith("--"))
