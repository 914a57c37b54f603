"""Tables as Docker prints them: columns at least 10 wide, 3 spaces apart, the last one not padded."""

from collections.abc import Iterable, Sequence

PADDING = 3
MINIMUM_WIDTH = 10


def table(rows: Iterable[Sequence[str]], *, minimum_width: int = MINIMUM_WIDTH) -> str:
    """Rows, the header first, as lines without a newline at the end."""
    cells = [list(row) for row in rows]
    columns = max((len(row) for row in cells), default=0)
    widths = [
        max(minimum_width, PADDING + max(_width(row[column]) for row in cells if len(row) > column + 1))
        for column in range(columns - 1)
    ]
    return "\n".join(
        "".join(cell + " " * (width - _width(cell)) for cell, width in zip(row[:-1], widths, strict=False)) + row[-1]
        for row in cells
        if row
    )


def ellipsis(text: str, length: int) -> str:
    """At most `length` characters, with a mark where something was cut off."""
    return text if len(text) <= length else text[: length - 1] + "…"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    # Only here: names and commands hardly ever need it.
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in text)
