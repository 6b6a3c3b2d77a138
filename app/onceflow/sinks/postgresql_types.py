"""How Python values become values of PostgreSQL's types, as text.

Decided here: which Python types a column takes, by a table, and how each is written. Values that
would silently change are refused (a text into a number, a datetime into a date); what only the
server can judge (overflow, length, constraints) is left to it.

Must never import psycopg, and does no I/O.
"""

from __future__ import annotations

import operator
import uuid
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable


class Kind(StrEnum):
    """What a column holds, as far as it matters for writing it."""

    INTEGER = "integer"
    FLOAT = "float"
    NUMERIC = "numeric"
    BOOLEAN = "boolean"
    TEXT = "text"
    BYTES = "bytes"
    TIMESTAMP = "timestamp"
    DATE = "date"
    TIME = "time"
    INTERVAL = "interval"
    UUID = "uuid"
    JSON = "json"
    ARRAY = "array"
    OTHER = "other"
    """Any further type: written as the text that PostgreSQL reads."""


BARE: Final = frozenset({Kind.INTEGER, Kind.FLOAT, Kind.NUMERIC, Kind.BOOLEAN})
"""Kinds whose texts need no quotes inside an array literal."""

_KINDS: Final = {
    "int2": Kind.INTEGER,
    "int4": Kind.INTEGER,
    "int8": Kind.INTEGER,
    "oid": Kind.INTEGER,
    "float4": Kind.FLOAT,
    "float8": Kind.FLOAT,
    "numeric": Kind.NUMERIC,
    "bool": Kind.BOOLEAN,
    "text": Kind.TEXT,
    "varchar": Kind.TEXT,
    "bpchar": Kind.TEXT,
    "name": Kind.TEXT,
    "citext": Kind.TEXT,
    "bytea": Kind.BYTES,
    "timestamp": Kind.TIMESTAMP,
    "timestamptz": Kind.TIMESTAMP,
    "date": Kind.DATE,
    "time": Kind.TIME,
    "timetz": Kind.TIME,
    "interval": Kind.INTERVAL,
    "uuid": Kind.UUID,
    "json": Kind.JSON,
    "jsonb": Kind.JSON,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table, as the catalogue tells it."""

    name: str
    type_name: str
    """With its length or precision, as a person writes it: ``character varying(10)``."""
    array_type: str
    """The type of an array of its values, without length: a cast to it changes no value."""
    kind: Kind
    is_required: bool
    """NOT NULL without a default: each row must bring it."""


def kind_of(base_type: str, category: str) -> Kind:
    """The kind of a type.

    Args:
        base_type: ``pg_type.typname``, of the type under a domain.
        category: ``pg_type.typcategory``; ``A`` are arrays.
    """
    if category == "A":
        return Kind.ARRAY
    return _KINDS.get(base_type, Kind.OTHER)


def _bytes_text(value: Any) -> str:
    return "\\x" + bytes(value).hex()


def _interval_text(value: Any) -> str:
    span = cast("timedelta", value)
    return f"{span.days} days {span.seconds} seconds {span.microseconds} microseconds"


def _json_text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _time_text(value: Any) -> str:
    return value.isoformat()


def _integer_text(value: Any) -> str:
    return str(operator.index(value))


def _float_text(value: Any) -> str:
    return repr(float(value))


def array_text(value: Any) -> str:
    """A list as the text of an array; lists within are its further dimensions."""
    parts: list[str] = []
    for each in cast("list[Any]", value):
        if each is None:
            parts.append("NULL")
        elif isinstance(each, list | tuple):
            parts.append(array_text(each))
        elif isinstance(each, bytes | bytearray | memoryview):
            parts.append(quoted(_bytes_text(each)))
        elif isinstance(each, timedelta):
            parts.append(quoted(_interval_text(each)))
        elif isinstance(each, dict):
            parts.append(quoted(_json_text(each)))
        else:
            parts.append(quoted(str(each)))
    return "{" + ",".join(parts) + "}"


def quoted(text: str) -> str:
    """A text inside an array literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


_PLAIN: Final[dict[Kind, frozenset[type]]] = {
    Kind.INTEGER: frozenset({int}),
    Kind.FLOAT: frozenset({float, int}),
    Kind.NUMERIC: frozenset({Decimal, int, float}),
    Kind.BOOLEAN: frozenset({bool}),
    Kind.TEXT: frozenset({str}),
    Kind.BYTES: frozenset(),
    Kind.TIMESTAMP: frozenset({datetime, str}),
    Kind.DATE: frozenset({date, str}),
    Kind.TIME: frozenset({time, str}),
    Kind.INTERVAL: frozenset({str}),
    Kind.UUID: frozenset({uuid.UUID, str}),
    Kind.JSON: frozenset(),
    Kind.ARRAY: frozenset(),
    Kind.OTHER: frozenset({str}),
}
"""Types whose ``str()`` PostgreSQL reads as the same value."""

_CONVERTED: Final[dict[Kind, tuple[tuple[type, Callable[[Any], str]], ...]]] = {
    Kind.INTEGER: ((int, _integer_text),),
    Kind.FLOAT: ((float, _float_text), (int, _integer_text)),
    Kind.NUMERIC: ((float, _float_text), (int, _integer_text), (Decimal, str)),
    Kind.BOOLEAN: (),
    Kind.TEXT: ((str, str.__str__),),
    Kind.BYTES: (
        (bytes, _bytes_text),
        (bytearray, _bytes_text),
        (memoryview, _bytes_text),
    ),
    Kind.TIMESTAMP: ((datetime, _time_text), (str, str.__str__)),
    Kind.DATE: ((str, str.__str__),),
    Kind.TIME: ((time, _time_text), (str, str.__str__)),
    Kind.INTERVAL: ((timedelta, _interval_text), (str, str.__str__)),
    Kind.UUID: ((str, str.__str__),),
    Kind.JSON: ((object, _json_text),),
    Kind.ARRAY: ((list, array_text), (tuple, array_text)),
    Kind.OTHER: ((str, str.__str__),),
}
"""Further types, subclasses included, and what makes their text; the first that fits."""


def is_plain(kind: Kind, python: type) -> bool:
    """Whether values of exactly this type are written by ``str()``."""
    return python in _PLAIN[kind]


def converter(kind: Kind, python: type) -> Callable[[Any], str] | None:
    """What makes the text of values of this type; None: the column does not take them."""
    if python is bool and kind is not Kind.JSON:
        return None
    for accepted, convert in _CONVERTED[kind]:
        if issubclass(python, accepted):
            return convert
    # Integers of numpy and the like are no int, but they say that they are one.
    if kind in {Kind.INTEGER, Kind.FLOAT, Kind.NUMERIC} and hasattr(python, "__index__"):
        return _integer_text
    return None
