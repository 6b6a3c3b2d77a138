"""Rows of set tables: one per member, folded from Faust's log of set operations.

Faust's changelog of a ``SetTable`` is a log of operations, not of values: its key is
``[operation, key]`` and its value one member (add, discard) or ``[added, removed]`` (update),
all of them JSON. Source: https://github.com/faust-streaming/faust/blob/v0.15.3/faust/tables/sets.py

In a store each member is a row of its own without a value, so that adding to a large set writes one
row, and folding operations in order is the same as writing and deleting rows in order:

    16 bytes  window bounds, only in windowed tables, see ``keys``
    4 bytes   length of the set's key
    n bytes   the set's key, its JSON
    m bytes   the member, its JSON

Sans-IO: imports no rocksdict.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import orjson

from onceflow.errors import DeserializationError
from onceflow.state.keys import BOUNDS_BYTES, from_changelog, to_changelog

if TYPE_CHECKING:
    from collections.abc import Sequence

ADD, DISCARD, UPDATE = 0x1, 0x2, 0xF
"""Faust's numbers of the operations."""

PRESENT = b""
"""The value of a member's row."""

_LENGTH_BYTES = 4


def set_prefix(inner: bytes, bounds: bytes = b"") -> bytes:
    """What the rows of one set begin with: bounds of its window, then its key's JSON."""
    return bounds + len(inner).to_bytes(_LENGTH_BYTES, "big") + inner


def after_prefix(prefix: bytes) -> bytes:
    """The first key behind all rows of a set."""
    # A member is JSON text, whose bytes are below 0xff.
    return prefix + b"\xff"


def split_row(store_key: bytes, *, windowed: bool) -> tuple[bytes, bytes, bytes]:
    """Take a row's key apart: bounds, the set's key, the member."""
    start = BOUNDS_BYTES if windowed else 0
    begin = start + _LENGTH_BYTES
    end = begin + int.from_bytes(store_key[start:begin], "big")
    return store_key[:start], store_key[begin:end], store_key[end:]


def operation_key(operation: int, bounds: bytes, inner: bytes) -> bytes:
    """Faust's changelog key of an operation on a set."""
    key = to_changelog(bounds + inner) if bounds else inner
    return b"[%d,%b]" % (operation, key)


def fold_operations(
    keys: Sequence[bytes], values: Sequence[bytes | None], *, windowed: bool
) -> dict[bytes, bytes | None]:
    """Rows that a piece of the log writes (``PRESENT``) and deletes (None).

    Raises:
        DeserializationError: a record is no operation on a set; stop and check the topic.
    """
    rows: dict[bytes, bytes | None] = {}
    for key, value in zip(keys, values, strict=True):
        try:
            operation, of_set = cast("tuple[int, object]", orjson.loads(key))
            operand: object = orjson.loads(value if value is not None else b"")
            added, removed = _changes(operation, operand)
        except (ValueError, TypeError) as error:
            raise DeserializationError(
                f"The changelog record with key {key[:200]!r} is no operation on a set "
                "([operation, key] with a member). Its set cannot be restored, and skipping it "
                "would lose members. Check that the table was not another kind of table under the "
                "same name; if it was, give it a new name."
            ) from error
        prefix = _prefix_of(orjson.dumps(of_set), windowed=windowed)
        for member in added:
            rows[prefix + orjson.dumps(member)] = PRESENT
        for member in removed:
            rows[prefix + orjson.dumps(member)] = None
    return rows


def _changes(operation: int, operand: object) -> tuple[list[object], list[object]]:
    """Members that an operation adds and removes, in this order, as Faust applies them."""
    if operation == ADD:
        return [operand], []
    if operation == DISCARD:
        return [], [operand]
    if operation == UPDATE:
        added, removed = cast("tuple[list[object], list[object]]", operand)
        return added, removed
    message = f"operation {operation}"
    raise ValueError(message)


def _prefix_of(of_set: bytes, *, windowed: bool) -> bytes:
    if not windowed:
        return set_prefix(of_set)
    store_key = from_changelog(of_set)
    return set_prefix(store_key[BOUNDS_BYTES:], store_key[:BOUNDS_BYTES])
