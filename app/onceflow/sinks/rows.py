"""What an agent may yield to a sink, as plain rows: the part that all systems share.

Decided here: which objects are rows. A row is a mapping of column names to values; objects that
can tell their fields (Faust records, dataclasses, msgspec structs) become one. Lists are taken
apart one level deep. Arrow data is the caller's matter, because it never becomes rows.

Must never import Faust or a driver of a database, and does no I/O.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import msgspec

from onceflow.errors import SerializationError

Row: TypeAlias = Mapping[str, Any]
"""Column names and values."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Yield it to delete the row with this key from a sink that has one.

    Args:
        key: the key's value; a tuple in the order of the sink's ``key``, or a mapping by column
            name, if the key has several columns.
    """

    key: Any


def items_of(value: object) -> Sequence[Row | Delete]:
    """The rows and deletions of one yield.

    Raises:
        SerializationError: something in it is neither.
    """
    if isinstance(value, list | tuple) and not hasattr(cast("object", value), "_asdict"):
        return [_item_of(each) for each in cast("Sequence[object]", value)]
    return [_item_of(cast("object", value))]


def _item_of(value: object) -> Row | Delete:
    if isinstance(value, Delete):
        return value
    if isinstance(value, Mapping):
        return cast("Row", value)
    # A Faust record has asdict(), and so has a named tuple under a name with an underscore.
    if hasattr(value, "asdict"):
        return cast("Row", cast("Any", value).asdict())
    if hasattr(value, "_asdict"):
        return cast("Row", cast("Any", value)._asdict())
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise SerializationError(
        f"a {type(value).__name__} cannot become a row of a sink. Yield a dict, a record, a "
        f"dataclass, onceflow.sinks.Delete, a list of these, or an Arrow table or record batch."
    )


def key_values(delete: Delete, key: Sequence[str]) -> tuple[Any, ...]:
    """The values of a deletion's key, in the order of the sink's ``key``.

    Raises:
        SerializationError: other columns than the key's, too few or too many values, or None.
    """
    given = delete.key
    if isinstance(given, Mapping):
        by_name = cast("Row", given)
        if set(by_name) != set(key):
            raise SerializationError(
                f"Delete names the columns {sorted(by_name)}, but the sink's key is {list(key)}. "
                f"Name exactly the columns of the key."
            )
        values = tuple(by_name[name] for name in key)
    elif isinstance(given, tuple | list):
        values = tuple(cast("Sequence[Any]", given))
    else:
        values = (given,)
    if len(values) != len(key) or None in values:
        raise SerializationError(
            f"Delete({given!r}) does not give a value for each column of the sink's key "
            f"{list(key)}. Give one value per column, in this order, and no None."
        )
    return values
