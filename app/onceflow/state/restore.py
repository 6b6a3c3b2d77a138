"""Bulk loading of a table from its changelog.

The caller reads committed changelog records in columns and hands them over; this module turns their
keys into store keys, keeps of each key only the last value of a piece, and writes pieces with the
position that follows them. A piece may end anywhere in the changelog, because it brings its own
position: an interrupted restore goes on where it stopped.

RocksDB's write holds the interpreter, so pieces are bounded (``RESTORE_CHUNK_RECORDS``), and the
caller yields to its event loop between two of them.

Imports no rocksdict: writes go through the store.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from onceflow.errors import DeserializationError
from onceflow.limits import RESTORE_CHUNK_BYTES, RESTORE_CHUNK_RECORDS
from onceflow.state.keys import from_changelog_many
from onceflow.state.overlay import Changes
from onceflow.state.set_rows import fold_operations

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onceflow.state.task_store import TaskStore


class KeyLayout(Enum):
    """How a table's store keys come from its changelog keys."""

    PLAIN = "plain"
    """As they are."""
    WINDOWED = "windowed"
    """Window bounds first, see ``keys``."""
    SETS = "sets"
    """Rows of set members, see ``set_rows``."""
    WINDOWED_SETS = "windowed_sets"
    """The same behind window bounds."""


_SETS = frozenset({KeyLayout.SETS, KeyLayout.WINDOWED_SETS})


class RestoreProgress(NamedTuple):
    """How far a restore is: records and bytes read, next offset, and the end it goes to."""

    records: int
    loaded_bytes: int
    position: int | None
    end_offset: int | None

    @property
    def remaining_records(self) -> int | None:
        """Offsets left, which is at least the number of records; None while the end is unknown."""
        if self.end_offset is None:
            return None
        return max(0, self.end_offset - (self.position or 0))


class RestoreLoader:
    """Loads one table of a store. Keeps no records between calls.

    ``end_offset`` is the changelog's high watermark, set by the caller when it is known.
    """

    def __init__(self, store: TaskStore, table: str, layout: KeyLayout) -> None:
        self.end_offset: int | None = None
        self._store: Final = store
        self._table: Final = table
        self._layout: Final = layout
        self._records = 0
        self._loaded_bytes = 0

    @property
    def progress(self) -> RestoreProgress:
        """Counters of this loader and the table's position."""
        position = self._store.changelog_position(self._table)
        return RestoreProgress(self._records, self._loaded_bytes, position, self.end_offset)

    def load(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        position: int,
        *,
        now_ms: int,
    ) -> None:
        """Write consecutive records as one piece, all or nothing with their position.

        Args:
            keys: changelog keys; at most RESTORE_CHUNK_RECORDS, else the event loop stands still.
            values: changelog values, None for a tombstone.
            position: the next offset to read after these records.
            now_ms: wall clock.

        Raises:
            DeserializationError: a key is not one of this table; stop the worker.
            StorageFailed, TaskCorrupted: as ``TaskStore.apply``.
        """
        if None in keys:
            raise DeserializationError(
                f"The changelog of table {self._table!r} has a record without key before offset "
                f"{position}. Faust and onceflow never write one, so something else writes to that "
                "topic; restoring it could give wrong state. Find the writer, or reset the table."
            )
        present: list[bytes] = list(keys)  # pyright: ignore[reportAssignmentType] - checked above
        if self._layout is KeyLayout.WINDOWED:
            present = from_changelog_many(present)
        if self._layout in _SETS:
            windowed = self._layout is KeyLayout.WINDOWED_SETS
            rows = fold_operations(present, values, windowed=windowed)
        else:
            rows = dict(zip(present, values, strict=True))
        self._store.replay(self._table, Changes(rows.items(), (), position), now_ms=now_ms)
        self._records += len(present)
        self._loaded_bytes += _bytes_in(present) + _bytes_in(values)

    def load_pieces(
        self,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
        offsets: Sequence[int],
        *,
        now_ms: int,
    ) -> Iterator[int]:
        """Write a column of any length in bounded pieces; yields the position after each one.

        Let the event loop run between two steps. Raises as ``load``.
        """
        start = 0
        while start < len(keys):
            stop = _piece_end(keys, values, start)
            position = offsets[stop - 1] + 1
            self.load(keys[start:stop], values[start:stop], position, now_ms=now_ms)
            yield position
            start = stop

    def caught_up(self, *, now_ms: int) -> None:
        """Note that the table has all of its changelog; call it when the end was reached.

        Raises as ``TaskStore.apply``.
        """
        self._store.caught_up(self._table, now_ms=now_ms)


def _piece_end(keys: Sequence[bytes | None], values: Sequence[bytes | None], start: int) -> int:
    """Where the piece from ``start`` ends: at the bound of records or of bytes, at least one on."""
    stop = min(start + RESTORE_CHUNK_RECORDS, len(keys))
    while stop - start > 1:
        size_bytes = _bytes_in(keys[start:stop]) + _bytes_in(values[start:stop])
        if size_bytes <= RESTORE_CHUNK_BYTES:
            break
        stop = start + (stop - start) // 2
    return stop


def _bytes_in(column: Sequence[bytes | None]) -> int:
    return sum(map(len, filter(None, column)))
