"""Expiry of windows: a bounded number of rows per epoch, as tombstones of that epoch.

Store keys begin with the window's start, so what has expired lies before one key. Each epoch takes
the oldest rows up to a bound; what is left goes with the next ones, also after a restart or on
another worker, because nothing but the store's own order is needed to find it. The changelog gets a
tombstone per row; the store deletes them as one range, so that the next search does not step over
what this one deleted.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from onceflow.limits import EXPIRED_ROWS_PER_EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.engine.table_partition import SealedRows
    from onceflow.state.task_store import TaskStore

_RANGE_ROWS_MIN = 16
"""Rows from which on a range is deleted instead of single rows. Each range delete costs reads a
little until it is compacted, so a handful of rows is not worth one."""


class ExpiredRows:
    """Store keys that an epoch deletes because their windows are over.

    Fields:
        keys: every one of them, ascending.
        stop: end of the key range that holds nothing else, or b"" if there is no such range.
    """

    __slots__ = ("keys", "stop")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.stop = b""

    def clear(self) -> None:
        """Forget them."""
        self.keys.clear()
        self.stop = b""

    def add_to(self, rows: SealedRows, changelog_key: Callable[[bytes], bytes]) -> None:
        """Add their tombstones to an epoch's rows, and a range or single deletes for the store."""
        produced = rows.produced_values()
        rows.changelog_values = [*produced, *([None] * len(self.keys))]
        rows.changelog_keys = [*rows.changelog_keys, *map(changelog_key, self.keys)]
        if self.stop and len(self.keys) >= _RANGE_ROWS_MIN:
            rows.deleted_ranges.append((b"", self.stop))
        else:
            rows.store_keys = [*rows.store_keys, *self.keys]
            rows.values = [*rows.values, *([None] * len(self.keys))]


class Expiry:
    """Finds expired rows of one table partition.

    Fields:
        floor: nothing is stored before this key; searches begin here. Advanced by `settle`.
        backlog: whether the last search met its bound, so that the next epoch must go on.
        horizon: where the last search that found everything ended.
    """

    __slots__ = ("_found_up_to", "backlog", "floor", "horizon", "store", "table")

    def __init__(self, store: TaskStore, table: str) -> None:
        self.store = store
        self.table = table
        self.horizon = b""
        self.floor = b""
        self.backlog = False
        self._found_up_to = b""

    def oldest(self, horizon: bytes) -> list[tuple[bytes, bytes]]:
        """Return up to a bound of the oldest rows before ``horizon``, for deletion.

        Whoever writes rows below ``floor`` deletes them in the same epoch.
        """
        if horizon <= self.floor:
            return []
        rows = list(
            islice(self.store.scan(self.table, self.floor or None, horizon), EXPIRED_ROWS_PER_EPOCH)
        )
        self.backlog = len(rows) == EXPIRED_ROWS_PER_EPOCH
        self._found_up_to = rows[-1][0] + b"\x00" if self.backlog else horizon
        return rows

    def stop_at(self, store_key: bytes) -> None:
        """Leave what was found from this key on for the next epoch."""
        self._found_up_to = store_key
        self.floor = min(self.floor, store_key)
        self.backlog = True

    def settle(self) -> None:
        """Take note that what was found is deleted."""
        self.floor = max(self.floor, self._found_up_to)

    def drop(self) -> None:
        """Take note that what was found is still there."""
        self._found_up_to = b""

    def expired(self, horizon: bytes) -> list[tuple[bytes, bytes]]:
        """Return up to a bound of the oldest rows before ``horizon``."""
        if horizon <= self.horizon:
            return []
        rows = list(islice(self.store.scan(self.table, None, horizon), EXPIRED_ROWS_PER_EPOCH))
        if len(rows) < EXPIRED_ROWS_PER_EPOCH:
            self.horizon = horizon
        return rows

    def add_to(self, rows: SealedRows, horizon: bytes) -> None:
        """Add tombstones of expired rows that the epoch did not change itself."""
        expired = self.expired(horizon)
        if not expired:
            return
        changed = set(rows.store_keys)
        found = ExpiredRows()
        found.keys = [key for key, _ in expired if key not in changed]
        if len(found.keys) == len(expired):
            found.stop = expired[-1][0] + b"\x00"
        if found.keys:
            found.add_to(rows, bytes)


__all__ = ["ExpiredRows", "Expiry"]
