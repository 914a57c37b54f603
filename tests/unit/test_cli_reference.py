"""The page about the command tells what the command knows."""

import re
from pathlib import Path

from atoll.cli.help import flag_rows
from atoll.cli.program import ROOT
from atoll.cli.reference import MARK, reference
from atoll.cli.tree import Tree
from atoll.cli.verb import Verb

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def verbs(tree: Tree) -> list[Verb]:
    """Every command below a tree."""
    found: list[Verb] = []
    for _, rows in tree.sections():
        for name, _ in rows:
            command = tree.find(name)
            assert command is not None, name
            found += verbs(command) if isinstance(command, Tree) else [command] if isinstance(command, Verb) else []
    return found


def test_the_page_is_current() -> None:
    before, mark, after = PAGE.read_text().partition(MARK)
    assert before.startswith("# ")
    assert mark + after == reference(), "run: python -m atoll.cli.reference, and put it at the end of docs/cli.md"


def test_every_command_and_flag_says_what_it_does() -> None:
    for verb in verbs(ROOT):
        assert verb.help
        for flag, text in flag_rows(verb.options):
            assert text, f"{verb.name} {flag}"


def test_every_command_is_on_the_page() -> None:
    headings = re.findall(r"^### (atoll .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(headings) == len(set(headings))
    for name in (
        "run",
        "ps",
        "image inspect",
        "container inspect",
        "system kernel set",
        "system start",
        "system template build",
    ):
        assert f"atoll {name}" in headings
