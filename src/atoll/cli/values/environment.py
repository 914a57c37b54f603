"""Variables and labels: `-e`, `--env-file`, `-l`, `--label-file` (Docker's opts package)."""

import os
from collections.abc import Iterable
from pathlib import Path

from atoll.errors import InvalidRequest


def parse_variable(text: str) -> str:
    """`NAME=value`; a bare `NAME` has its value from our environment, and unsets the image's where we have none."""
    name, separator, _ = text.partition("=")
    if not name:
        raise ValueError(f"invalid environment variable: {text}")
    if not separator and name in os.environ:
        return f"{name}={os.environ[name]}"
    return text


def variables(files: Iterable[str], given: Iterable[str]) -> list[str]:
    """The variables of files, then those given, which come later and so win."""
    found = [
        line if "=" in line else f"{line}={os.environ[line]}"
        for file in files
        for line in _lines(file)
        if "=" in line or line in os.environ
    ]
    return [*found, *given]


def labels(files: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """Labels; one without `=` is empty."""
    lines = [*(line for file in files for line in _lines(file)), *given]
    return key_values(lines)


def key_values(texts: Iterable[str]) -> dict[str, str]:
    """`key=value` texts as a mapping, the last one wins."""
    pairs = (text.partition("=") for text in texts)
    return {key: value for key, _, value in pairs}


def parse_label(text: str) -> str:
    """A label, or the error that it has no name."""
    if not text.partition("=")[0]:
        raise ValueError(f"invalid label '{text}': empty name")
    return text


def _lines(file: str) -> list[str]:
    """A file's lines without comments; raises `InvalidRequest` for one that is no variable."""
    try:
        text = Path(file).read_text("utf-8-sig")
    except OSError as error:
        raise InvalidRequest(f"open {file}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"invalid env file ({file}): not UTF-8: {error.reason}") from error
    lines = []
    for line in text.split("\n"):
        line = line.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, separator, _ = line.partition("=")
        name = name if separator else name.strip()
        if not name:
            raise InvalidRequest(f"invalid env file ({file}): no variable name on line '{line}'")
        if any(character.isspace() for character in name):
            raise InvalidRequest(f"invalid env file ({file}): variable '{name}' contains whitespaces")
        lines.append(line if separator else name)
    return lines
