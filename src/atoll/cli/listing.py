"""Lists of things in the ways that `--format` asks for: a table, a table of a template, JSON lines, a template.

A row is a thing's fields as text, by Docker's names; the header of a field is what a `table` shows above it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from atoll.cli.flags import Kind, flag
from atoll.cli.table import table
from atoll.cli.values.limits import parse_filter

if TYPE_CHECKING:
    from atoll.client.shapes import Json

Command = TypeVar("Command", bound=Callable[..., object])
Row = Mapping[str, str]
Filters = Sequence[tuple[str, str]]

FORMAT = flag(
    "--format",
    help="Format output using a custom template: 'table', 'table TEMPLATE', 'json', or 'TEMPLATE' (Go template)",
)


def filters_flag(*short: str, help: str = "Filter output based on conditions provided") -> Callable[[Command], Command]:
    """Decorator: `--filter`, the function's `filters`."""
    return flag(*short, "--filter", "filters", kind=Kind("filter", parse_filter), multiple=True, help=help)


def collect(filters: Filters) -> dict[str, list[str]]:
    """Filters by name."""
    found: dict[str, list[str]] = {}
    for name, value in filters:
        found.setdefault(name, []).append(value)
    return found


def listing(rows: Sequence[Row], headers: Mapping[str, str], columns: Sequence[str], format: str | None) -> str:
    """The list as text, without a newline at its end; `columns` are those of the plain table.

    Raises `TemplateError` for a template that is wrong or names a field that `headers` does not.
    """
    chosen = format or "table"
    if chosen == "table":
        return table([[headers[column] for column in columns], *([row[column] for column in columns] for row in rows)])
    # Only here: a plain table needs neither.
    if chosen == "json":
        import json

        return "\n".join(json.dumps(dict(row), ensure_ascii=False, separators=(",", ":")) for row in rows)
    from atoll.cli.template import Template

    is_table = chosen.startswith("table ")
    template = Template(_unescape(chosen.removeprefix("table ")))
    names: dict[str, Json] = dict(headers)
    header = template.render(names)
    values: list[dict[str, Json]] = [dict(row) for row in rows]
    lines = [template.render(value) for value in values]
    if is_table:
        return table([line.split("\t") for line in (header, *lines)])
    return "\n".join(lines)


def names_field(format: str | None, field: str) -> bool:
    """Whether a format is a template that names this field, which may be dear to find out."""
    if format is None or field not in format:
        return False
    from atoll.cli.template import Template

    return field in Template(format).fields()


def _unescape(template: str) -> str:
    """Docker takes `\\t` and `\\n` as people type them in a shell."""
    return template.replace("\\t", "\t").replace("\\n", "\n")
