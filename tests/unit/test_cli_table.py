"""Tables and lists as Docker prints them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.cli.listing import listing, names_field
from atoll.cli.table import ellipsis, table
from atoll.cli.template import TemplateError

HEADERS = {"ID": "CONTAINER ID", "Names": "NAMES", "State": "STATE"}
ROWS = [{"ID": "0123456789ab", "Names": "reef", "State": "running"}, {"ID": "ba9876543210", "Names": "a", "State": ""}]


def test_columns_are_three_spaces_apart_and_at_least_ten_wide() -> None:
    assert table([["CONTAINER ID", "X", "NAMES"], ["0123456789ab", "", "reef"]]).splitlines() == [
        "CONTAINER ID   X         NAMES",
        "0123456789ab             reef",
    ]


def test_wide_characters_take_two_columns() -> None:
    assert table([["NAME", "N"], ["珊瑚礁海", "1"], ["é", "2"]]).splitlines() == [
        "NAME       N",
        "珊瑚礁海   1",
        "é          2",
    ]


@given(st.lists(st.lists(st.text("abc ", max_size=30), min_size=3, max_size=3), min_size=1))
def test_every_row_begins_its_columns_at_the_same_places(rows: list[list[str]]) -> None:
    lines = table(rows).split("\n")
    widths = [max(10, 3 + max(len(row[column]) for row in rows)) for column in (0, 1)]
    for row, line in zip(rows, lines, strict=True):
        assert line == row[0].ljust(widths[0]) + row[1].ljust(widths[1]) + row[2]


def test_what_is_too_long_is_cut_with_a_mark() -> None:
    assert ellipsis("x" * 20, 20) == "x" * 20
    assert ellipsis("x" * 21, 20) == "x" * 19 + "…"


def test_a_list_without_rows_is_a_header() -> None:
    assert listing([], HEADERS, ("ID", "Names"), None) == "CONTAINER ID   NAMES"


def test_json_is_one_object_a_line() -> None:
    assert [json.loads(line) for line in listing(ROWS, HEADERS, (), "json").splitlines()] == ROWS


def test_a_template_is_one_line_a_row() -> None:
    assert listing(ROWS, HEADERS, (), "{{.ID}}:{{.Names}}") == "0123456789ab:reef\nba9876543210:a"


def test_a_table_of_a_template_has_headers_and_columns() -> None:
    assert listing(ROWS, HEADERS, (), r"table {{.Names}}\t{{.State}}").splitlines() == [
        "NAMES     STATE",
        "reef      running",
        "a         ",
    ]


def test_a_field_that_does_not_exist_is_an_error_even_without_rows() -> None:
    with pytest.raises(TemplateError, match='no field "Nope"'):
        listing([], HEADERS, (), "{{.Nope}}")


def test_dear_fields_are_asked_for_only_when_they_are_named() -> None:
    assert names_field("{{.Size}}", "Size")
    assert not names_field("{{.SizeOfIt}}", "Size")
    assert not names_field(None, "Size")
