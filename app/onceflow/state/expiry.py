"""Finding expired windows, a bounded number at a time.

Expiry is part of an epoch: each expired row gets a tombstone in the changelog, so what one epoch
expires is bounded, while the store needs only one range delete for all of them. Windows start their
store keys, so that the rows to expire are the first ones of the table.

Imports no rocksdict: rows come from any scan.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from onceflow.errors import invariant
from onceflow.state.keys import expired_ranges

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class ExpiredRows(NamedTuple):
    """Rows to expire, and the range to delete that holds exactly them.

    ``complete`` is whether no further row of the table is expired.
    """

    rows: list[tuple[bytes, bytes]]
    deleted_range: tuple[bytes, bytes]
    complete: bool


def find_expired(
    scan: Callable[[str, bytes, bytes], Iterator[tuple[bytes, bytes]]],
    table: str,
    horizon_start_s: float,
    limit: int,
) -> ExpiredRows:
    """The first ``limit`` rows of windows that start before ``horizon_start_s``.

    The caller writes a tombstone for each row, and deletes ``deleted_range`` from its overlay or
    names it in ``Changes``. With nothing expired it costs one seek.

    Args:
        scan: rows of a table in ``[start, stop)`` in key order: ``TaskStore.scan`` for committed
            rows, or an overlay's for those that the epoch sees.
        table: the table's name, handed to ``scan``.
        horizon_start_s: event time in seconds.
        limit: most rows to expire at once.

    Raises:
        TaskCorrupted, StorageFailed: as ``TableReads``.
    """
    invariant(limit > 0, "INV-STATE-5: expiry makes progress", limit=limit)
    start, stop = expired_ranges(table, horizon_start_s)
    rows = list(islice(scan(table, start, stop), limit + 1))
    if len(rows) <= limit:
        return ExpiredRows(rows, (start, stop), complete=True)
    return ExpiredRows(rows[:limit], (start, rows[limit][0]), complete=False)
