"""Expiry of windows: a bounded number of rows per epoch, as tombstones of that epoch.

Store keys begin with the window's start, so what has expired lies before one key. Each epoch takes
the oldest rows up to a bound; what is left goes with the next ones, also after a restart or on
another worker, because nothing but the store's own order is needed to find it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from onceflow.limits import EXPIRED_ROWS_PER_EPOCH

if TYPE_CHECKING:
    from onceflow.engine.table_partition import SealedRows
    from onceflow.state.task_store import TaskStore


class Expiry:
    """Finds expired rows of one table partition.

    Fields:
        horizon: where the last search that found everything ended; nothing before it is left.
    """

    __slots__ = ("horizon", "store", "table")

    def __init__(self, store: TaskStore, table: str) -> None:
        self.store = store
        self.table = table
        self.horizon = b""

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
        gone = [key for key, _ in expired if key not in changed]
        rows.store_keys = rows.store_keys + gone
        rows.changelog_keys = rows.changelog_keys + gone
        rows.values = rows.values + [None] * len(gone)
