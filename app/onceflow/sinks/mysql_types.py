"""How Python values become literals of MySQL's and MariaDB's column types.

Decided here: which Python types a column takes. MySQL rounds without a word what does not fit a
column exactly (1.5 into an integer, 0.125 into two decimals, microseconds into seconds), also in
strict mode, so that such values are refused here. What it does judge (ranges, lengths, characters,
constraints) is left to it.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import orjson

from onceflow.errors import SerializationError

if TYPE_CHECKING:
    from collections.abc import Callable

_TEXT_ESCAPES: Final = str.maketrans({"\0": "\\0", "'": "\\'", "\\": "\\\\", "\x1a": "\\Z"})
"""What has a meaning in a quoted literal. The session's ``sql_mode`` keeps backslashes escapes."""


class Kind(StrEnum):
    """What a column holds, as far as it matters for writing it."""

    INTEGER = "integer"
    FLOAT = "float"
    DECIMAL = "decimal"
    TEXT = "text"
    BYTES = "bytes"
    JSON = "json"
    DATETIME = "datetime"
    DATE = "date"
    TIME = "time"


_KINDS: Final = {
    **dict.fromkeys(
        ("tinyint", "smallint", "mediumint", "int", "bigint", "year", "bit"), Kind.INTEGER
    ),
    **dict.fromkeys(("float", "double"), Kind.FLOAT),
    "decimal": Kind.DECIMAL,
    **dict.fromkeys(
        ("char", "varchar", "tinytext", "text", "mediumtext", "enum", "set", "uuid"), Kind.TEXT
    ),
    **dict.fromkeys(
        ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"), Kind.BYTES
    ),
    # MariaDB's JSON is a longtext.
    **dict.fromkeys(("json", "longtext"), Kind.JSON),
    **dict.fromkeys(("datetime", "timestamp"), Kind.DATETIME),
    "date": Kind.DATE,
    "time": Kind.TIME,
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column that rows may have."""

    name: str
    type_name: str
    kind: Kind
    decimals: int
    """Digits after the point, of a decimal or of a second."""
    is_required: bool
    """Whether a row without it is refused: NOT NULL without a default."""


def kind_of(data_type: str) -> Kind | None:
    """Give the kind of a type of ``information_schema``; None for one that sinks do not write."""
    return _KINDS.get(data_type.lower())


def literal(column: Column, value: object) -> str:
    """Give a value as SQL text.

    Raises:
        SerializationError: the column does not take it exactly.
    """
    if value is None:
        return "NULL"
    text = _WRITERS[column.kind](column, value)
    if text is None:
        raise SerializationError(
            f"column {column.name!r} is {column.type_name} and does not take the "
            f"{type(value).__name__} {str(value)[:40]!r} as it is. Convert it before it is yielded."
        )
    return text


def quoted(text: str) -> str:
    """Give a text as a literal."""
    return f"'{text.translate(_TEXT_ESCAPES)}'"


def _integer(_: Column, value: object) -> str | None:
    return str(int(value)) if isinstance(value, int) else None


def _float(_: Column, value: object) -> str | None:
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else None
    # An integer that a double does not hold would be another one afterwards.
    return str(int(value)) if isinstance(value, int) and int(float(value)) == value else None


def _decimal(column: Column, value: object) -> str | None:
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        value = Decimal(repr(value))
    if not isinstance(value, Decimal) or not value.is_finite():
        return None
    exponent = value.normalize().as_tuple().exponent
    return f"{value:f}" if isinstance(exponent, int) and -exponent <= column.decimals else None


def _text(_: Column, value: object) -> str | None:
    if isinstance(value, uuid.UUID):
        return quoted(str(value))
    return quoted(value) if isinstance(value, str) else None


def _bytes(_: Column, value: object) -> str | None:
    if isinstance(value, uuid.UUID):
        value = value.bytes
    return f"X'{value.hex()}'" if isinstance(value, bytes | bytearray) else None


def _json(_: Column, value: object) -> str | None:
    if isinstance(value, str):
        return quoted(value)
    try:
        return quoted(orjson.dumps(value).decode()) if isinstance(value, dict | list) else None
    except TypeError:
        return None


def _datetime(column: Column, value: object) -> str | None:
    if not isinstance(value, datetime):
        return None
    if value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return _seconds(column, value.isoformat(" "), value.microsecond)


def _date(_: Column, value: object) -> str | None:
    is_date = isinstance(value, date) and not isinstance(value, datetime)
    return f"'{value}'" if is_date else None


def _time(column: Column, value: object) -> str | None:
    if isinstance(value, timedelta):
        seconds = abs(value) // timedelta(seconds=1)
        microsecond = (abs(value) % timedelta(seconds=1)).microseconds
        sign = "-" if value < timedelta() else ""
        text = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
        if microsecond:
            text += f".{microsecond:06d}"
        return _seconds(column, text, microsecond)
    if isinstance(value, time) and value.tzinfo is None:
        return _seconds(column, value.isoformat(), value.microsecond)
    return None


def _seconds(column: Column, text: str, microsecond: int) -> str | None:
    return None if microsecond % 10 ** (6 - column.decimals) else f"'{text}'"


_WRITERS: Final[dict[Kind, Callable[[Column, Any], str | None]]] = {
    Kind.INTEGER: _integer,
    Kind.FLOAT: _float,
    Kind.DECIMAL: _decimal,
    Kind.TEXT: _text,
    Kind.BYTES: _bytes,
    Kind.JSON: _json,
    Kind.DATETIME: _datetime,
    Kind.DATE: _date,
    Kind.TIME: _time,
}
