"""Arrow data as CSV and as array literals."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.columns import csvrows
from onceflow.errors import SerializationError

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r"))


@settings(deadline=None)
@given(st.lists(st.tuples(st.none() | st.integers(-9, 9), texts), min_size=1))
def test_csv_reads_back_and_nothing_differs_from_an_empty_text(rows):
    table = pa.table({"n": [n for n, _ in rows], "t": pa.array([t for _, t in rows], pa.string())})
    text = csvrows.csv_bytes(table).decode()
    expected = [["" if n is None else str(n), t or ""] for n, t in rows]
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True)) == expected
    assert text.count('""') >= sum(t == "" for _, t in rows)
    assert csvrows.csv_bytes(pa.table({"t": ["", None]}).combine_chunks()) == b'""\n\n'


def test_array_literals_quote_what_is_not_bare():
    table = pa.table({"n": [1, None, 3], "t": ['a"b', None, "c\\,{}"]})
    assert csvrows.array_literals([table], {"n"}) == ["{1,NULL,3}", '{"a\\"b",NULL,"c\\\\,{}"}']


def test_an_array_of_many_chunks_is_one_literal():
    table = pa.concat_tables([pa.table({"n": [number]}) for number in range(5)])
    assert csvrows.array_literals([table], {"n"}) == ["{0,1,2,3,4}"]
    assert csvrows.array_literals([table.slice(0, 0)], {"n"}) == ["{}"]


def test_value_types_are_pythons_also_of_dictionaries():
    table = pa.table({"d": pa.array(["x"]).dictionary_encode(), "l": [[1]], "s": [{"a": 1}]})
    assert csvrows.value_types(table) == {"d": str, "l": list, "s": dict}


def test_only_arrow_data_is_arrow_data():
    batch = pa.record_batch({"n": [1]})
    assert csvrows.as_arrow_table(batch).num_rows == 1
    assert csvrows.as_arrow_table([{"n": 1}]) is None


def test_converted_columns_are_texts_and_keep_their_nulls():
    table = csvrows.with_texts(pa.table({"b": [b"\x01", None]}), {"b": bytes.hex})
    assert csvrows.rows_of(table) == [{"b": "01"}, {"b": None}]
    assert csvrows.null_columns(table) == {"b"}


def test_what_has_no_text_is_refused():
    with pytest.raises(SerializationError, match="cannot be written as CSV"):
        csvrows.csv_bytes(pa.table({"l": [[1]]}))
    months = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    with pytest.raises(SerializationError, match="no sink can take"):
        csvrows.value_types(pa.table({"m": months}))


def test_literals_of_tables_whose_types_differ_are_joined():
    tables = [pa.table({"n": [1]}), pa.table({"n": pa.nulls(1)}), pa.table({"n": [2.5]})]
    assert csvrows.array_literals(tables, {"n"}) == ["{1,NULL,2.5}"]


def test_simple_rows_become_columns():
    rows = [{"a": 1, "b": "x", "c": None, "d": True}, {"d": False, "c": None, "b": None, "a": 2}]
    table = csvrows.simple_table(rows)
    assert csvrows.rows_of(table) == [{name: row[name] for name in "abcd"} for row in rows]


@pytest.mark.parametrize(
    "rows",
    [
        [{"a": 1}, {"b": 1}],
        [{"a": 1}, {"a": 1, "b": 2}],
        [{"a": 1}, {"a": 1.5}],
        [{"a": True}, {"a": 1}],
        [{"a": 2**63}],
        [{"a": "\ud800"}],
        [{"a": b"x"}],
        [{"a": [1]}],
        [{"a": 1}, "text"],
    ],
)
def test_other_rows_do_not(rows):
    assert csvrows.simple_table(rows) is None
