"""Arrow data as the texts that databases load: CSV, and one array literal per column.

Decided here: how Arrow's values look as text. No step of it is per row in Python, except for types
that Arrow has no text for, whose values go through a converter of the caller.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow.csv  # pyright: ignore[reportMissingTypeStubs]

from onceflow.columns.arrow import ArrowError, pa, pc
from onceflow.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onceflow.columns.arrow import ArrowArray, ArrowTable, ArrowType

_csv: Any = cast("Any", pyarrow.csv)

_SIMPLE: Final = frozenset({bool, float, int, str})

_FORM: Final = _csv.WriteOptions(include_header=False, quoting_style="needed")
"""Texts are always quoted and nulls never, so that an empty text differs from none."""

_TYPES: Final[tuple[tuple[str, type], ...]] = (
    ("is_null", type(None)),
    ("is_boolean", bool),
    ("is_integer", int),
    ("is_floating", float),
    ("is_decimal", Decimal),
    ("is_string", str),
    ("is_large_string", str),
    ("is_string_view", str),
    ("is_binary", bytes),
    ("is_large_binary", bytes),
    ("is_binary_view", bytes),
    ("is_fixed_size_binary", bytes),
    ("is_timestamp", datetime),
    ("is_date", date),
    ("is_time", time),
    ("is_duration", timedelta),
    ("is_list", list),
    ("is_large_list", list),
    ("is_fixed_size_list", list),
    ("is_struct", dict),
    ("is_map", list),
)


def as_arrow_table(value: object) -> ArrowTable | None:
    """The value as a ``pyarrow.Table`` if it is one or a ``pyarrow.RecordBatch``; else None."""
    if isinstance(value, pa.Table):
        return value
    if isinstance(value, pa.RecordBatch):
        return pa.Table.from_batches([value])
    return None


def simple_table(rows: Sequence[object]) -> ArrowTable | None:
    """Rows as columns, if they are dicts with the same names and of simple values; else None.

    Simple are numbers that fit 64 bits, texts, booleans and None, of one type per column. It costs
    less than handling the rows one by one, and what is not simple is left to that.
    """
    if set(map(type, rows)) != {dict}:
        return None
    dicts = cast("Sequence[dict[str, Any]]", rows)
    names = list(dicts[0])
    if set(map(len, dicts)) != {len(names)}:
        return None
    columns: dict[str, ArrowArray] = {}
    for name in names:
        try:
            values = [row[name] for row in dicts]
            types = set(map(type, values)) - {type(None)}
            if len(types) > 1 or not types <= _SIMPLE:
                return None
            columns[name] = pa.array(values)
        except (KeyError, OverflowError, UnicodeError, ArrowError):
            return None
    return pa.table(columns)


def value_types(table: ArrowTable) -> dict[str, type]:
    """The Python type that the values of each column have, by the column's name.

    Raises:
        SerializationError: two columns of one name, or a type that has no Python counterpart.
    """
    names = cast("list[str]", table.column_names)
    if len(set(names)) != len(names):
        raise SerializationError(
            f"an Arrow table has two columns of one name: {names}. Rename or drop one of them."
        )
    return {field.name: _python_type(field.name, field.type) for field in table.schema}


def _python_type(name: str, of: ArrowType) -> type:
    if pa.types.is_dictionary(of):
        return _python_type(name, of.value_type)
    for test, python in _TYPES:
        if getattr(pa.types, test)(of):
            return python
    raise SerializationError(
        f"column {name!r} of an Arrow table has the type {of}, which no sink can take. Cast it."
    )


def null_columns(table: ArrowTable) -> set[str]:
    """Names of the columns that have a null."""
    return {name for name in table.column_names if table[name].null_count}


def with_texts(table: ArrowTable, converters: Mapping[str, Callable[[Any], str]]) -> ArrowTable:
    """The table with the named columns as text, value by value; nulls stay."""
    for name, convert in converters.items():
        values = [None if each is None else convert(each) for each in table[name].to_pylist()]
        table = table.set_column(
            table.column_names.index(name), name, pa.array(values, pa.large_string())
        )
    return table


def rows_of(table: ArrowTable) -> list[dict[str, Any]]:
    """One dict per row."""
    return table.to_pylist()


def csv_bytes(table: ArrowTable) -> bytes:
    """The rows as UTF-8 CSV without a header; a null is nothing, an empty text is ``""``.

    Raises:
        SerializationError: a type that Arrow does not write; give it to ``with_texts`` first.
    """
    out = pa.BufferOutputStream()
    try:
        _csv.write_csv(table, out, _FORM)
    except ArrowError as error:
        raise SerializationError(f"Arrow columns cannot be written as CSV: {error}") from error
    return out.getvalue().to_pybytes()


def array_literals(tables: Sequence[ArrowTable], bare: set[str]) -> list[str]:
    """Each column as the text of an SQL array, ``{1,NULL,3}``.

    Args:
        tables: with the same columns, in order; their types may differ.
        bare: names of columns whose values need no quotes: numbers and booleans.
    """
    return [
        "{" + ",".join([_elements(t[name], is_bare=name in bare) for t in tables if len(t)]) + "}"
        for name in tables[0].column_names
    ]


def _elements(column: ArrowArray, *, is_bare: bool) -> str:
    texts = pc.cast(column, pa.string()).combine_chunks()
    if not is_bare:
        for special in ("\\", '"'):
            texts = pc.replace_substring(texts, special, "\\" + special)
        texts = pc.binary_join_element_wise('"', texts, '"', "")
    # binary_join has no kernel for large lists; an epoch's rows are bounded far below 2 GB.
    texts = pc.fill_null(texts, "NULL")
    joined = pc.binary_join(pa.ListArray.from_arrays([0, len(texts)], texts), ",")
    return joined[0].as_py()
