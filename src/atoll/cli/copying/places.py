"""The words of `cp`: what is in a container, what is here, and what the copy is called where it goes.

The rules are Docker's (https://docs.docker.com/reference/cli/docker/container/cp/): a directory that exists takes the
source under the source's name, or with `/.` at the source's end its content; what does not exist takes the source's
place under the new name.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from atoll.cli.errors import Failure


@dataclass(frozen=True)
class Place:
    """An argument of `cp`: a path of a container, or, where that is empty, of the host."""

    container: str
    path: str


def parse_place(argument: str) -> Place:
    """Read `CONTAINER:PATH` or `PATH`; a path with a colon is written `./a:b` or from the root on."""
    container, colon, path = argument.partition(":")
    if argument.startswith("/") or not colon or container.startswith("."):
        return Place("", argument)
    return Place(container, path)


def means_content(path: str) -> bool:
    """Whether a source's content is meant, and not itself: `path/.`."""
    return path == "." or path.endswith("/.")


def last_name(path: str) -> str:
    """The last name of a path, without what a slash or a dot at its end says; the root has none."""
    return Path(os.path.normpath(path)).name


def parent(path: str) -> str:
    """The directory that a path's last name is in."""
    return str(Path(os.path.normpath(path)).parent)


@dataclass(frozen=True)
class Target:
    """Where a copy goes: into `directory`, its top called `name`; without a name only its content goes there."""

    directory: str
    name: str


def target(source: str, *, name: str, is_directory: bool, to: str, exists: bool, to_directory: bool) -> Target:
    """Where a copy of `source`, whose own name is `name`, goes, given what `to` is; raises `Failure`."""
    if exists and to_directory:
        return Target(to, "" if means_content(source) else name)
    if exists and is_directory:
        raise Failure("cannot copy directory")
    if not exists and not is_directory and (to.endswith("/") or means_content(to)):
        raise Failure("no such directory")
    return Target(parent(to), last_name(to))
