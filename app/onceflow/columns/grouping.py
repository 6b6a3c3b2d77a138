"""Groups columns by window and key, in Arrow; nothing here loops over records in Python.

A *pane* is a stretch of event time as long as the windows' step; tumbling windows are panes, and a
hopping window is a whole number of them. Records are grouped by pane first, then the few groups
are spread over the windows that contain their pane.

Groups are an Arrow table: ``start`` (int64, ms), ``key`` (binary), ``count`` (int64), and ``sum``,
``min``, ``max`` as far as they are needed.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow.columns.arrow import ArrowArray, ArrowTable, ArrowType, pa, pc
from onceflow.limits import EVENT_TIME_MS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

SUM_WITHOUT_LOSS: ArrowType = pa.decimal128(38, 0)
"""Type in which integer sums are made when int64 could overflow on the way."""


@dataclass(frozen=True, slots=True)
class Panes:
    """How event time is cut.

    Attributes:
        size_ms: length of a window, a multiple of the step.
        step_ms: distance between the starts of windows.
    """

    size_ms: int
    step_ms: int

    def starts(self, timestamps_ms: ArrowArray) -> ArrowArray:
        """Give the start of the pane that contains each timestamp, also before 1970."""
        # Arrow divides towards zero, but panes are cut towards the past, so time is shifted by a
        # whole number of steps to where all of it is positive.
        shift_ms = -(-EVENT_TIME_MS_MAX // self.step_ms) * self.step_ms
        steps = pc.divide(pc.add(timestamps_ms, shift_ms), self.step_ms)
        return pc.subtract(pc.multiply(steps, self.step_ms), shift_ms)

    def spread(self, groups: ArrowTable, numbers: tuple[str, ...]) -> ArrowTable:
        """Turn groups of panes into groups of windows."""
        if self.size_ms == self.step_ms:
            return groups
        starts = groups["start"]
        copies = [
            groups.set_column(0, "start", pc.subtract(starts, back_ms))
            for back_ms in range(0, self.size_ms, self.step_ms)
        ]
        return regrouped(copies, numbers)


def grouped(
    starts: ArrowArray, keys: ArrowArray, values: ArrowArray | None, numbers: tuple[str, ...]
) -> ArrowTable:
    """Group records by pane and key.

    Args:
        starts: pane of each record.
        keys: key of each record, binary.
        values: int64, float64 or ``SUM_WITHOUT_LOSS``; None if nothing but the count is wanted.
        numbers: which of ``sum``, ``min``, ``max`` are wanted.
    """
    columns = {"start": starts, "key": keys}
    if values is not None:
        columns["value"] = values
    return _aggregate(
        pa.table(columns), [("start", "count"), *(("value", name) for name in numbers)], numbers
    )


def regrouped(parts: Sequence[ArrowTable], numbers: tuple[str, ...]) -> ArrowTable:
    """Merge groups: those with the same start and key become one."""
    return _aggregate(
        pa.concat_tables(parts).combine_chunks(),
        [("count", "sum"), *((name, name) for name in numbers)],
        numbers,
    )


def _aggregate(
    table: ArrowTable, aggregations: list[tuple[str, str]], numbers: tuple[str, ...]
) -> ArrowTable:
    """Group by start and key; name the results ``count`` and as the numbers."""
    results = table.group_by(["start", "key"], use_threads=False).aggregate(aggregations)
    named = {
        "start": results["start"],
        "key": results["key"],
        "count": results[f"{aggregations[0][0]}_{aggregations[0][1]}"],
    }
    for name, (column, function) in zip(numbers, aggregations[1:], strict=True):
        named[name] = results[f"{column}_{function}"]
    return pa.table(named)
