"""Uncommitted writes of one table and partition, merged over its store when read.

An epoch's writes stay here until Kafka has committed, so that the store never contains a write of
an epoch that may yet be aborted (INV-STATE-1). An abort drops the overlay; a commit applies it.

Order within an overlay: a range delete also takes back the overlay's own earlier writes in that
range, so that applying all range deletes first and all writes after them gives the same result.

Imports no rocksdict: reads go through the store that is passed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from onceflow.state.task_store import TaskStore


class Changes(NamedTuple):
    """What one epoch changes in one table: range deletes first, then rows.

    ``rows`` are (store key, value or None to delete), ``deleted_ranges`` are ``[start, stop)``,
    and ``position`` is the next changelog offset after these changes, None if it does not move.
    """

    rows: Collection[tuple[bytes, bytes | None]]
    deleted_ranges: Sequence[tuple[bytes, bytes]] = ()
    position: int | None = None


_UNWRITTEN: Final = object()


class Overlay:
    """Uncommitted writes of one (table, partition).

    ``writes`` maps store keys to values, None for a delete; a hot loop may write to it directly.
    """

    __slots__ = ("deleted_ranges", "table", "writes")

    def __init__(self, table: str) -> None:
        self.table: Final = table
        self.writes: Final[dict[bytes, bytes | None]] = {}
        self.deleted_ranges: Final[list[tuple[bytes, bytes]]] = []

    def __bool__(self) -> bool:
        return bool(self.writes or self.deleted_ranges)

    def get(self, key: bytes, store: TaskStore) -> bytes | None:
        """The value as this epoch sees it: its own write, else the committed one."""
        value = self.writes.get(key, _UNWRITTEN)
        if value is not _UNWRITTEN:
            return value  # pyright: ignore[reportReturnType] - only the sentinel is no value
        if self.deleted_ranges and self._covers(key):
            return None
        return store.get(self.table, key)

    def get_many(self, keys: list[bytes], store: TaskStore) -> list[bytes | None]:
        """``get`` over a column, with one read of the store for what the epoch has not written."""
        writes = self.writes
        unwritten = [key for key in keys if key not in writes]
        if self.deleted_ranges:
            unwritten = [key for key in unwritten if not self._covers(key)]
        if not unwritten:
            return [writes.get(key) for key in keys]
        stored = dict(zip(unwritten, store.get_many(self.table, unwritten), strict=True))
        return [writes[key] if key in writes else stored.get(key) for key in keys]

    def delete_range(self, start: bytes, stop: bytes) -> None:
        """Delete every key in ``[start, stop)``, the overlay's own writes among them."""
        if start >= stop:
            return
        for key in [key for key in self.writes if start <= key < stop]:
            del self.writes[key]
        self.deleted_ranges.append((start, stop))

    def scan(
        self, store: TaskStore, start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows of ``[start, stop)`` as this epoch sees them at the call, in key order."""
        written = sorted(
            (key, value)
            for key, value in self.writes.items()
            if (start is None or start <= key) and (stop is None or key < stop)
        )
        return self._merge(written, store.scan(self.table, start, stop), list(self.deleted_ranges))

    def freeze(self, position: int | None = None) -> Changes:
        """The epoch's changes as they stand; later writes do not reach them."""
        return Changes(list(self.writes.items()), tuple(self.deleted_ranges), position)

    def drop(self) -> None:
        """Forget everything: after an abort, and after the changes were applied."""
        self.writes.clear()
        self.deleted_ranges.clear()

    def _covers(self, key: bytes) -> bool:
        return any(start <= key < stop for start, stop in self.deleted_ranges)

    def _merge(
        self,
        written: list[tuple[bytes, bytes | None]],
        stored: Iterator[tuple[bytes, bytes]],
        deleted_ranges: list[tuple[bytes, bytes]],
    ) -> Iterator[tuple[bytes, bytes]]:
        """Merge sorted own writes over sorted stored rows; of equal keys the own write counts."""
        index = 0
        for row in stored:
            key = row[0]
            while index < len(written) and written[index][0] < key:
                own, value = written[index]
                index += 1
                if value is not None:
                    yield own, value
            if index < len(written) and written[index][0] == key:
                continue
            if not any(start <= key < stop for start, stop in deleted_ranges):
                yield row
        for own, value in written[index:]:
            if value is not None:
                yield own, value
