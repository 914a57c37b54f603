"""The part of `docs/cli.md` that lists every command with its flags: `python -m atoll.cli.reference` prints it.

A test keeps the page and this the same.
"""

import sys
from collections.abc import Iterator

from atoll.cli.help import flag_rows
from atoll.cli.program import ROOT
from atoll.cli.tree import Tree
from atoll.cli.verb import Verb

MARK = "<!-- From here on: python -m atoll.cli.reference -->"


def reference() -> str:
    """The mark and what follows it."""
    return "\n".join([MARK, "", "## Every command", "", *_tree(ROOT, "atoll")]).rstrip("\n") + "\n"


def _tree(tree: Tree, path: str) -> Iterator[str]:
    """The commands of a tree, those of its trees after them."""
    names = sorted(name for _, rows in tree.sections() for name, _ in rows)
    commands = [(f"{path} {name}", tree.find(name)) for name in names]
    for name, command in commands:
        if isinstance(command, Verb):
            yield from _verb(command, name)
    for name, command in commands:
        if isinstance(command, Tree):
            yield from _tree(command, name)


def _verb(verb: Verb, path: str) -> Iterator[str]:
    others = [alias for alias in verb.aliases if alias != path]
    main = min(verb.aliases, key=len, default=path)
    # `atoll container run` is told under `atoll run`.
    if main != path and main.count(" ") == 1:
        return
    yield f"### {path}"
    yield ""
    yield f"{verb.help}."
    yield ""
    yield f"    {verb.usage_line(path)}"
    yield ""
    if others:
        yield "Also " + ", ".join(f"`{alias}`" for alias in others) + "."
        yield ""
    if verb.options:
        yield "| flag | |"
        yield "|---|---|"
        for flag, text in flag_rows(verb.options):
            yield f"| `{flag.strip()}` | {text.replace('|', chr(92) + '|')} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(reference())
