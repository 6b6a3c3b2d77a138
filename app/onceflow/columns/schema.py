"""Arrow schemas: from a record class's annotations, and how JSON is read by a schema.

Rules of the file: a type is either supported exactly or refused with ``ConfigError``; there is no
"anything else becomes text". A field may be null only if the schema says so: ``Optional`` in an
annotation, ``nullable=True`` in a schema (Arrow's default).

Must never import Faust: it takes annotations, not record classes.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NotRequired, TypeAlias, TypedDict, Union, cast, get_args, get_origin

from onceflow.columns.arrow import ArrowField, ArrowSchema, ArrowType, pa
from onceflow.errors import ConfigError

PythonType: TypeAlias = Any
"""A type expression, as msgspec takes it."""

_ARROW_OF_ANNOTATION: Mapping[object, ArrowType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    bytes: pa.binary(),
    # Faust writes times in ISO 8601; microseconds are what Python's datetime resolves.
    datetime: pa.timestamp("us", tz="UTC"),
}

_PYTHON_OF_ARROW: Sequence[tuple[Callable[[ArrowType], bool], PythonType]] = (
    (pa.types.is_boolean, bool),
    (pa.types.is_integer, int),
    (pa.types.is_floating, float),
    (pa.types.is_string, str),
    (pa.types.is_large_string, str),
    # Faust's JSON writes bytes as text in UTF-8, so that is how they are read.
    (pa.types.is_binary, str),
    (pa.types.is_large_binary, str),
    (pa.types.is_timestamp, datetime),
    (pa.types.is_date, date),
    (pa.types.is_decimal, Decimal),
)


def schema_from_annotations(annotations: Mapping[str, Any]) -> ArrowSchema:
    """Give the Arrow schema of a class with these annotations, fields in their order.

    Args:
        annotations: resolved types by field name, as ``typing.get_type_hints`` gives them: str, int
            (64 bits), float, bool, bytes, datetime (microseconds, UTC), lists and ``Optional``s
            of those.

    Returns:
        a ``pyarrow.Schema``; only ``Optional`` fields may be null.

    Raises:
        ConfigError: a type has no column; give ``to_arrow`` a schema of your own.
    """
    return pa.schema([_field(name, annotation) for name, annotation in annotations.items()])


def _field(name: str, annotation: Any) -> ArrowField:
    """Give the Arrow field of one annotation."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1 and len(get_args(annotation)) > 1:
            return _field(name, members[0]).with_nullable(True)
        raise _unsupported(name, annotation)
    if annotation in (list, Sequence) or get_origin(annotation) in (list, Sequence):
        if not get_args(annotation):
            raise _unsupported(name, annotation)
        item = _field("item", get_args(annotation)[0])
        return pa.field(name, pa.list_(item), nullable=False)
    arrow_type = _ARROW_OF_ANNOTATION.get(annotation)
    if arrow_type is None:
        raise _unsupported(name, annotation)
    return pa.field(name, arrow_type, nullable=False)


def _unsupported(name: str, annotation: object) -> ConfigError:
    return ConfigError(
        f"field {name!r} has the type {annotation!r}, which has no Arrow column here, so its "
        "values would be lost; give to_arrow() a pyarrow schema of the fields that you need"
    )


def python_type(field: ArrowField) -> PythonType:
    """Give the type by which msgspec reads a JSON field into this Arrow field.

    Raises:
        ConfigError: the Arrow type cannot be read from JSON.
    """
    found = _python_type_of(field.name, field.type)
    return found | None if field.nullable else found


def _python_type_of(name: str, arrow_type: ArrowType) -> PythonType:
    """Give the type without regard to null."""
    if pa.types.is_list(arrow_type) or pa.types.is_large_list(arrow_type):
        return list[python_type(arrow_type.value_field)]
    if pa.types.is_struct(arrow_type):
        members = {
            member.name: NotRequired[python_type(member)]
            if member.nullable
            else python_type(member)
            for member in arrow_type
        }
        return cast("Any", TypedDict)(name, members)
    for matches, found in _PYTHON_OF_ARROW:
        if matches(arrow_type):
            return found
    raise ConfigError(
        f"field {name!r} has the Arrow type {arrow_type}, which is not read from JSON; use "
        "integers, floats, booleans, text, bytes, timestamps, dates, decimals, lists or structs"
    )
