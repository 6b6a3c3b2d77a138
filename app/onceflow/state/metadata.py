"""The rows of a store's metadata column family, and how they are read back.

They are written in the same batch as the rows of the tables, which is what makes a table and its
changelog position one. Imports no rocksdict: rows are pairs of bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow.errors import TaskCorrupted
from onceflow.state.trust import StoreMetadata

if TYPE_CHECKING:
    from collections.abc import Iterable

APP_ROW = b"app"
CLUSTER_ROW = b"cluster"
APPLIED_ROW = b"applied_ms"
FLUSHED_ROW = b"flushed_ms"
"""Time of the oldest row of the last flush. Written because a flush is started by a write."""

_TOPIC_PREFIX = b"topic/"
_POSITION_PREFIX = b"position/"
_AS_OF_PREFIX = b"as_of_ms/"
_NUMBER_BYTES = 8


def topic_row(table: str) -> bytes:
    """Key of the topic id of a table's changelog."""
    return _TOPIC_PREFIX + table.encode()


def position_row(table: str) -> bytes:
    """Key of a table's next changelog offset."""
    return _POSITION_PREFIX + table.encode()


def as_of_row(table: str) -> bytes:
    """Key of the time as of which a table is complete, while it follows its changelog."""
    return _AS_OF_PREFIX + table.encode()


def encode_number(number: int) -> bytes:
    """An offset or a time in milliseconds, as 8 bytes."""
    return number.to_bytes(_NUMBER_BYTES, "big", signed=True)


def read_metadata(rows: Iterable[tuple[bytes, bytes]]) -> StoreMetadata:
    """What a store says of itself.

    Raises:
        TaskCorrupted: a row is not as this module writes it. Wipe and restore.
    """
    found = StoreMetadata()
    for key, value in rows:
        if key == APP_ROW:
            found.app = value.decode()
        elif key == CLUSTER_ROW:
            found.cluster_id = value.decode()
        elif key == APPLIED_ROW:
            found.applied_ms = _number(key, value)
        elif key.startswith(_TOPIC_PREFIX):
            found.topic_ids[key.removeprefix(_TOPIC_PREFIX).decode()] = value.decode()
        elif key.startswith(_POSITION_PREFIX):
            found.positions[key.removeprefix(_POSITION_PREFIX).decode()] = _number(key, value)
        elif key.startswith(_AS_OF_PREFIX):
            found.as_of_ms[key.removeprefix(_AS_OF_PREFIX).decode()] = _number(key, value)
    return found


def _number(key: bytes, value: bytes) -> int:
    if len(value) != _NUMBER_BYTES:
        raise TaskCorrupted(
            f"The store's metadata row {key!r} has {len(value)} bytes instead of {_NUMBER_BYTES}. "
            "Its position cannot be trusted, so it must be wiped and restored from the changelog."
        )
    return int.from_bytes(value, "big", signed=True)
