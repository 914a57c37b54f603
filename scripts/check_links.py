#!/usr/bin/env python3
"""Checks that every relative link in the Markdown pages leads to a file and, where it names one, to a heading.

Links to the web are not followed: a page of ours does not become wrong when a network is away.
"""

import re
import subprocess
import sys
from pathlib import Path

LINK = re.compile(r"\[[^\]]*\]\(([^()\s]+(?:\([^()]*\))?)\)")
BLOCK = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
HEADING = re.compile(r"^#{1,6} +(.*?) *#*$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings are reached, made as forges make them."""
    headings = HEADING.findall(BLOCK.sub("", page.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    """One line for each link of `page` that leads nowhere."""
    found = []
    for target in LINK.findall(CODE.sub("", BLOCK.sub("", page.read_text()))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, heading = target.partition("#")
        goal = (page.parent / name).resolve() if name else page
        if not goal.exists():
            found.append(f"{page}: {target}: there is no such file")
        elif heading and heading not in anchors(goal):
            found.append(f"{page}: {target}: there is no such heading")
    return found


def main() -> int:
    """Check every page that git knows, or is about to know."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        capture_output=True,
        text=True,
        check=True,
    )
    pages = [page for page in map(Path, listed.stdout.splitlines()) if page.exists()]
    found = [line for page in pages for line in broken_links(page)]
    print("\n".join(found) if found else f"{len(pages)} pages: every link leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
