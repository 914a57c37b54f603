"""The functions of templates: Go's own and those that Docker adds."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from atoll.cli.template.errors import TemplateError

if TYPE_CHECKING:
    from atoll.client.shapes import Json


def show(value: "Json") -> str:
    """A value as Go prints it (`%v`)."""
    if value is None:
        return "<no value>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{_inner(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(_inner(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:g}" if value != int(value) else str(int(value))
    return str(value)


def is_true(value: "Json") -> bool:
    """Go's truth: not false, 0, nil or empty."""
    return bool(value)


def call(name: str, arguments: "list[Json]") -> "Json":
    """Call a function; raises `TemplateError` for one that does not exist, or what it does not take."""
    function = _FUNCTIONS.get(name)
    if function is None:
        raise TemplateError(f'failed to parse template: function "{name}" not defined')
    try:
        return function(*arguments)
    except (TypeError, IndexError, ValueError, AttributeError) as error:
        raise TemplateError(f"failed to execute template: error calling {name}: {error}") from error


def _inner(value: "Json") -> str:
    return "<nil>" if value is None else show(value)


def _index(value: "Json", *keys: "Json") -> "Json":
    for key in keys:
        if isinstance(value, dict):
            # As in Go, where a map of strings has an empty one for a key that is not there.
            of_text = all(isinstance(item, str) for item in value.values())
            value = value.get(str(key), "" if of_text else None)
        elif isinstance(value, list) and isinstance(key, int) and not isinstance(key, bool):
            if not 0 <= key < len(value):
                raise IndexError(f"index out of range: {key}")
            value = value[key]
        elif value is None:
            raise ValueError("index of untyped nil")
        else:
            raise TypeError(f"can't index item of type {type(value).__name__}")
    return value


def _join(items: "Json", separator: "Json" = "") -> str:
    if not isinstance(items, list):
        raise TypeError("join takes a list")
    return str(separator).join(show(item) for item in items)


def _length(value: "Json") -> int:
    if isinstance(value, (str, list, dict)):
        return len(value)
    raise TypeError(f"len of {show(value)}")


def _split(text: "Json", separator: "Json") -> "Json":
    return list(str(text).split(str(separator)))


def _slice(value: "Json", start: int = 0, end: int | None = None) -> "Json":
    if not isinstance(value, (str, list)):
        raise TypeError(f"can't slice {show(value)}")
    return value[start:end]


def _printf(text: "Json", *values: "Json") -> str:
    # Go's %v and %q have no like in Python's; the rest is the same.
    shown = tuple(value if isinstance(value, (int, float)) else show(value) for value in values)
    return str(text).replace("%v", "%s").replace("%q", '"%s"') % shown


def _all_of(first: "Json", *rest: "Json") -> "Json":
    return next((value for value in (first, *rest) if not is_true(value)), (first, *rest)[-1])


def _any_of(first: "Json", *rest: "Json") -> "Json":
    return next((value for value in (first, *rest) if is_true(value)), (first, *rest)[-1])


_FUNCTIONS: Mapping[str, "Callable[..., Json]"] = {
    "json": lambda value: json.dumps(value, separators=(",", ":"), ensure_ascii=False),
    "index": _index,
    "join": _join,
    "split": _split,
    "slice": _slice,
    "len": _length,
    "upper": lambda text: str(text).upper(),
    "lower": lambda text: str(text).lower(),
    "title": lambda text: str(text)[:1].upper() + str(text)[1:],
    "pad": lambda text, before, after: " " * before + str(text) + " " * after if text else text,
    "truncate": lambda text, length: str(text)[:length],
    "println": lambda *values: " ".join(show(value) for value in values) + "\n",
    "print": lambda *values: " ".join(show(value) for value in values),
    "printf": _printf,
    "not": lambda value: not is_true(value),
    "and": _all_of,
    "or": _any_of,
    "eq": lambda first, *others: any(first == other for other in others),
    "ne": lambda first, second: first != second,
    "lt": lambda first, second: first < second,
    "le": lambda first, second: first <= second,
    "gt": lambda first, second: first > second,
    "ge": lambda first, second: first >= second,
}
