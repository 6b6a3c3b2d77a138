"""How rows become PostgreSQL's texts, read back by small readers of the two formats."""

from __future__ import annotations

import re
from enum import Enum, IntEnum

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.errors import SerializationError
from onceflow.sinks.postgresql_rows import RowEncoder, array_literal, copy_text, pieces_of
from onceflow.sinks.postgresql_types import Column, Kind
from onceflow.sinks.rows import Delete

COLUMNS = [
    Column("id", "integer", "integer[]", Kind.INTEGER, is_required=True),
    Column("word", "text", "text[]", Kind.TEXT, is_required=False),
    Column("ratio", "double precision", "double precision[]", Kind.FLOAT, is_required=False),
]
UNESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\"}
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
awkward = st.text("\\\t\n\r\"',{}N \b.é").filter(lambda text: "\0" not in text)
words = st.none() | texts | awkward


def encoder(*key):
    return RowEncoder("t", COLUMNS, key)


def read_copy(text):
    """Rows of COPY's text format. Source: PostgreSQL's manual, COPY, Text Format."""
    return [
        [
            None
            if field == "\\N"
            else re.sub(r"\\(.)", lambda found: UNESCAPED[found[1]], field, flags=re.DOTALL)
            for field in line.split("\t")
        ]
        for line in text.split("\n")
    ]


def read_array(literal):
    """Elements of an array of one dimension. Source: PostgreSQL's manual, Array Input."""
    assert literal[0] == "{"
    assert literal[-1] == "}"
    found = re.findall(r'"((?:[^"\\]|\\.)*)"|([^,"{}]+)', literal[1:-1], flags=re.DOTALL)
    return [
        bare
        if bare and bare != "NULL"
        else None
        if bare
        else re.sub(r"\\(.)", r"\1", text, flags=16)
        for text, bare in found
    ]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(), words), min_size=1, max_size=20))
def test_copied_text_reads_back_as_it_was(rows):
    encoded = encoder().encode([{"id": number, "word": word} for number, word in rows])
    assert encoded.rows == len(rows)
    assert read_copy(copy_text(encoded.payload)) == [[str(number), word] for number, word in rows]


@settings(deadline=None)
@given(st.lists(words, max_size=20))
def test_an_array_of_texts_reads_back_as_it_was(values):
    assert read_array(array_literal(Kind.TEXT, values)) == values


@settings(deadline=None)
@given(st.lists(st.none() | st.integers(), max_size=20))
def test_an_array_of_numbers_reads_back_as_it_was(values):
    expected = [None if value is None else str(value) for value in values]
    assert read_array(array_literal(Kind.INTEGER, values)) == expected


def test_a_row_is_what_it_was_when_it_was_yielded():
    row = {"id": 1, "word": "a"}
    encoded = encoder().encode(row)
    row["word"] = "changed"
    assert encoded.payload[0][1] == (1, "a")


def test_subclasses_of_plain_types_are_written_as_their_values():
    class Color(str, Enum):  # noqa: UP042 - its str() differs from its value
        RED = "red"

    class Size(IntEnum):
        BIG = 3

    class Number:  # as numpy's integers
        def __index__(self):
            return 8

    rows = [{"id": Size.BIG, "word": Color.RED}, {"id": Number(), "ratio": Number()}]
    payload = encoder().encode(rows).payload
    assert payload[0][1] == ("3", "red")
    assert payload[1][1] == ("8", "8")


def test_rows_with_the_same_columns_share_a_piece_whatever_their_types():
    make = encoder()
    yields = [make.encode({"id": n, "word": None if n % 2 else "x"}) for n in range(5)]
    (piece,) = pieces_of(yields)
    assert piece.columns == ("id", "word")
    assert [piece.culprit(row) for row in range(5)] == [0, 1, 2, 3, 4]


def test_other_columns_begin_a_piece_and_deletions_join_one():
    make = encoder("id")
    yields = [
        make.encode(value)
        for value in (Delete(1), [{"id": 1}, {"id": 2}], Delete(2), {"id": 1, "word": "x"})
    ]
    first, second = pieces_of(yields)
    assert (first.columns, len(first.rows)) == (("id",), 4)
    assert [first.culprit(row) for row in range(4)] == [0, 1, 1, 2]
    assert (second.columns, second.yields) == (("id", "word"), [3])


def test_no_rows_are_no_pieces():
    assert pieces_of([]) == []
    assert pieces_of([encoder().encode([])]) == []


def test_a_shape_is_forgotten_and_worked_out_anew(monkeypatch):
    monkeypatch.setattr("onceflow.sinks.postgresql_rows.ROW_SHAPES_MAX", 2)
    make = encoder()
    for _ in range(3):
        for row in ({"id": 1}, {"id": 1, "word": "a"}, {"id": 1, "ratio": 0.5}):
            assert len(make.encode(row).payload) == 1


def test_the_size_grows_with_the_texts():
    make = encoder()
    small, large = (make.encode({"id": 1, "word": "x" * n}).size_bytes for n in (1, 1_000))
    assert large - small == 999


@pytest.mark.parametrize("value", [{"id": 1.5}, {"id": "1"}, {"id": 1, "word": b"x"}])
def test_a_type_that_would_change_the_value_is_refused(value):
    with pytest.raises(SerializationError, match="Convert it"):
        encoder().encode(value)
