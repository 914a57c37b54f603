"""Help pages in Docker's shape: usage, what it does, other names, flags in two columns."""

import textwrap
from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from typing import TYPE_CHECKING

import click

from atoll.cli.flags import Kind, Switch, long_name

if TYPE_CHECKING:
    from atoll.cli.tree import Tree
    from atoll.cli.verb import Verb


def verb_page(verb: "Verb", path: str) -> str:
    """The help of a command."""
    parts = [f"Usage:  {verb.usage_line(path)}", verb.help or ""]
    if verb.aliases:
        parts.append("Aliases:\n  " + ", ".join(verb.aliases))
    if verb.options:
        parts.append("Options:\n" + flag_table(verb.options))
    return "\n\n".join(parts)


def tree_page(tree: "Tree", path: str) -> str:
    """The help of a command that has commands."""
    options = [parameter for parameter in tree.params if isinstance(parameter, click.Option)]
    parts = [f"Usage:  {path}{' [OPTIONS]' if options else ''} COMMAND", tree.help or ""]
    for title, rows in tree.sections():
        width = max(len(name) for name, _ in rows)
        parts.append(f"{title}:\n" + "\n".join(f"  {name:<{width}}   {summary}" for name, summary in rows))
    if options:
        parts.append("Global Options:\n" + flag_table(options))
    parts.append(f"Run '{path} COMMAND --help' for more information on a command.")
    return "\n\n".join(parts)


def flag_rows(options: Iterable[click.Option]) -> list[tuple[str, str]]:
    """Flags and what they do, in alphabetical order."""
    rows = []
    for option in sorted(options, key=long_name):
        short = next((name for name in option.opts if not name.startswith("--")), "")
        kind = option.type.name if isinstance(option.type, Kind) else ""
        left = f"{short + ', ' if short else '    '}{long_name(option)}{' ' + kind if kind else ''}"
        rows.append((left, (option.help or "") + _default_of(option)))
    return rows


def flag_table(options: Sequence[click.Option]) -> str:
    """The two columns, wrapped to the terminal."""
    rows = flag_rows(options)
    width = max(len(left) for left, _ in rows)
    room = max(get_terminal_size().columns - width - 6, 24)
    lines = []
    for left, text in rows:
        first, *more = textwrap.wrap(text, room) or [""]
        lines.append(f"  {left:<{width}}   {first}".rstrip())
        lines += [f"  {'':<{width}}   {line}" for line in more]
    return "\n".join(lines)


def _default_of(option: click.Option) -> str:
    default = option.default
    if isinstance(option, Switch):
        return " (default true)" if default is True else ""
    if isinstance(default, str) and default:
        return f' (default "{default}")'
    return f" (default {default})" if isinstance(default, int) else ""
