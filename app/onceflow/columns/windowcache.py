"""Remembers committed rows of the windows at hand, so that a commit seldom reads the store.

What it decides: which rows are known without asking RocksDB. A read costs about 1.2 us a key, an
answer from here 0.1 us (tests/bench/bench_columns.py). Theory of operation: rows are kept by
window. A window that had no row in the store when it was first seen is *whole*: every row that it
has is here, so that a key which is missing here is missing there too. When there are too many
rows, whole windows go, the one that was not touched for longest first.

Rules of the file: only rows that Kafka has committed and the store has taken come in; whatever
makes that doubtful empties the cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(slots=True)
class CachedWindow:
    """Rows of one window of one partition.

    Attributes:
        whole: no row of the window is anywhere but here.
        rows: by store key.
    """

    whole: bool
    rows: dict[bytes, bytes] = field(default_factory=dict[bytes, bytes])


class WindowCache:
    """Committed rows by partition and window.

    Args:
        rows_max: how many rows to keep, over all partitions.
    """

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._row_count = 0
        # In the order in which they were touched, the latest last.
        self._windows: dict[tuple[int, int], CachedWindow] = {}

    def __len__(self) -> int:
        return self._row_count

    def window(self, partition: int, start_ms: int) -> CachedWindow | None:
        """Give what is known of a window, or None."""
        return self._windows.get((partition, start_ms))

    def remember(
        self,
        partition: int,
        start_ms: int,
        entries: Iterable[tuple[bytes, bytes]],
        *,
        whole: bool,
    ) -> None:
        """Take rows that are committed and stored.

        Args:
            partition: whose they are.
            start_ms: their window.
            entries: (store key, row).
            whole: if the window is not here yet: whether these are all rows that it has.
        """
        at = (partition, start_ms)
        window = self._windows.pop(at, None) or CachedWindow(whole)
        self._windows[at] = window
        known = len(window.rows)
        window.rows.update(entries)
        self._row_count += len(window.rows) - known
        while self._row_count > self._rows_max:
            self._drop(next(iter(self._windows)))

    def forget(self, partition: int, before_ms: int | None = None) -> None:
        """Drop a partition's windows that start before ``before_ms``, or all of them."""
        for at in list(self._windows):
            if at[0] == partition and (before_ms is None or at[1] < before_ms):
                self._drop(at)

    def clear(self) -> None:
        """Drop everything."""
        self._windows.clear()
        self._row_count = 0

    def _drop(self, at: tuple[int, int]) -> None:
        self._row_count -= len(self._windows.pop(at).rows)
