"""Python values as SQLite has them, and rows checked against a table when an agent yields them.

Decided here: SQLite knows integers of 64 bits, floats, texts and blobs. What Python has beside them
becomes a text that sorts and reads well, never a guess: what would change its value is refused.

Must never import sqlite3, and does no I/O.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast
from uuid import UUID

import msgspec

from onceflow.columns import csvrows
from onceflow.errors import SerializationError
from onceflow.sinks.outbox_format import encode_rows
from onceflow.sinks.rows import Delete, Row, items_of, key_values

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from onceflow.sinks.participant import EncodedRows

_INTEGER_MAX: Final = 2**63 - 1


class SqliteColumn(NamedTuple):
    """A column of a table.

    Attributes:
        name: its name.
        type_name: as it was declared; may be empty.
        is_required: whether a row must have a value for it.
    """

    name: str
    type_name: str
    is_required: bool


class SqliteRows:
    """Turns what an agent yields into messages for one table.

    Args:
        table: its name, for errors.
        columns: those that can be written.
        key: columns that identify a row; empty for a sink that appends.
    """

    def __init__(self, table: str, columns: Sequence[SqliteColumn], key: Sequence[str]) -> None:
        self._table = table
        self._names = frozenset(column.name for column in columns)
        self._key = tuple(key)
        self._required = frozenset(c.name for c in columns if c.is_required) | set(key)

    def encode(self, value: object) -> EncodedRows:
        """See ``OutboxSink.encode``."""
        table = csvrows.as_arrow_table(value)
        rows = items_of(value if table is None else csvrows.rows_of(table))
        return encode_rows(self._checked(rows))

    def _checked(
        self, rows: Sequence[Row | Delete]
    ) -> Iterator[tuple[tuple[str, ...], bool, tuple[Any, ...]]]:
        for row in rows:
            if isinstance(row, Delete):
                yield self._key, True, self._values(self._key, self._key_of(row))
                continue
            columns = tuple(row)
            if not self._names.issuperset(columns) or not columns:
                self._refuse_names(columns)
            for name in self._required:
                if row.get(name) is None:
                    raise SerializationError(
                        f"a row for table {self._table} has no value in column {name!r}, which is "
                        "part of the key, or NOT NULL without a default."
                    )
            yield columns, False, self._values(columns, tuple(row.values()))

    def _key_of(self, delete: Delete) -> tuple[Any, ...]:
        if not self._key:
            raise SerializationError(
                f"Delete needs a sink with a key, and the sink of table {self._table} has none: "
                "it only appends. Give it key=[...], or yield no Delete."
            )
        return key_values(delete, self._key)

    def _refuse_names(self, columns: Sequence[str]) -> None:
        unknown = [name for name in columns if name not in self._names]
        what = f"has no column {unknown[0]!r}" if unknown else "takes no row without columns"
        raise SerializationError(
            f"table {self._table} {what}. Its columns are {sorted(self._names)}; yield only these, "
            "or alter the table and start the worker again."
        )

    def _values(self, columns: Sequence[str], values: tuple[Any, ...]) -> tuple[Any, ...]:
        try:
            return tuple([_plain(value) for value in values])
        except SerializationError:
            for name, value in zip(columns, values, strict=True):
                self._plain_in(name, value)
            raise

    def _plain_in(self, name: str, value: object) -> None:
        try:
            _plain(value)
        except SerializationError as error:
            raise SerializationError(
                f"column {name!r} of table {self._table} {error} Convert it before it is yielded."
            ) from error


def _plain(value: Any) -> Any:
    """A value that msgpack and SQLite take as it is."""
    kind = cast("type[object]", type(value))
    if value is None or kind is str or kind is bytes:
        return value
    if kind is int:
        if -_INTEGER_MAX - 1 <= value <= _INTEGER_MAX:
            return value
        raise SerializationError(f"takes no integer beyond 64 bits ({value}).")
    if kind is float:
        if math.isnan(value):
            raise SerializationError("takes no NaN: SQLite would store NULL.")
        return value
    convert = _CONVERSIONS.get(kind)
    if convert is None:
        convert = next((each for base, each in _BASES if isinstance(value, base)), None)
    if convert is None:
        raise SerializationError(f"takes no {kind.__name__}.")
    return convert(value)


def _enum(value: Enum) -> Any:
    return _plain(value.value)


def _json(value: object) -> str:
    try:
        return msgspec.json.encode(value, order="deterministic").decode()
    except (TypeError, ValueError) as error:
        raise SerializationError(f"takes a list or mapping as JSON only: {error}.") from error


def _datetime(value: datetime) -> str:
    return value.isoformat(" ")


_CONVERSIONS: Final[dict[type[object], Callable[[Any], Any]]] = {
    bool: int,
    Decimal: str,
    datetime: _datetime,
    date: date.isoformat,
    time: time.isoformat,
    timedelta: timedelta.total_seconds,
    UUID: str,
    list: _json,
    tuple: _json,
    dict: _json,
    bytearray: bytes,
    memoryview: bytes,
}
_BASES: Final[tuple[tuple[type[object], Callable[[Any], Any]], ...]] = (
    (Enum, _enum),
    (datetime, _datetime),
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (Mapping, _json),
)
"""For subclasses."""
