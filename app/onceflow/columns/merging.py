"""Merges what an epoch adds to windows with the rows that the store holds.

Two ways with the same result. ``merged_columns`` takes windows that are all of one kind, new and
stored, and does everything in Arrow. ``merged_rows`` takes what is left, windows in which integers
and floats meet and integers that could overflow, and loops over the windows (not the records).

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onceflow.columns.arrow import ArrowArray, ArrowError, ArrowTable, pa, pc
from onceflow.columns.rows import (
    ARROW_OF_KIND,
    Kind,
    RowCodec,
    bytes_of,
    column_of,
    window_prefix,
)
from onceflow.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Run: TypeAlias = tuple[int, int, int]
"""Rows of one window: its start in ms, the first row, the row after the last."""

_MERGE_COLUMNS = {
    "sum": pc.add_checked,
    "min": pc.min_element_wise,
    "max": pc.max_element_wise,
}


_MERGE_NUMBERS: dict[str, Callable[[int | float, int | float], int | float]] = {
    "sum": operator.add,
    "min": min,
    "max": max,
}


@dataclass(frozen=True, slots=True)
class WindowColumns:
    """Windows of one kind as columns, in runs of equal starts.

    Attributes:
        kind: of all of them.
        runs: which rows belong to which window.
        starts_ms: int64 column.
        keys: the groups' keys.
        store_keys: where their rows are stored.
        counts: int64 column: records of the epoch, or of the whole window once merged.
        numbers: a column per number of the row: of the epoch, or of the window once merged.
    """

    kind: Kind
    runs: list[Run]
    starts_ms: ArrowArray
    keys: list[bytes]
    store_keys: list[bytes]
    counts: ArrowArray
    numbers: dict[str, ArrowArray]


def window_columns(kind: Kind, groups: ArrowTable, numbers: tuple[str, ...]) -> WindowColumns:
    """Give the groups as columns, sorted by window."""
    extent = pc.min_max(groups["start"])
    if extent["min"] != extent["max"]:
        groups = groups.sort_by("start")
    groups = groups.combine_chunks()
    columns = {name: groups[name].chunk(0) for name in groups.column_names}
    runs = _runs(columns["start"])
    keys = bytes_of(columns["key"])
    store_keys: list[bytes] = []
    for start_ms, first, end in runs:
        prefix = window_prefix(start_ms)
        store_keys += [prefix + key for key in keys[first:end]]
    return WindowColumns(
        kind=kind,
        runs=runs,
        starts_ms=columns["start"],
        keys=keys,
        store_keys=store_keys,
        counts=columns["count"],
        numbers={name: columns[name] for name in numbers},
    )


def _runs(starts_ms: ArrowArray) -> list[Run]:
    """Give the runs of equal starts of a sorted column."""
    encoded = pc.run_end_encode(starts_ms)
    runs: list[Run] = []
    first = 0
    for start_ms, end in zip(encoded.values.to_pylist(), encoded.run_ends.to_pylist(), strict=True):
        runs.append((start_ms, first, end))
        first = end
    return runs


def merged_columns(
    added: WindowColumns, stored: Sequence[bytes | None], codec: RowCodec
) -> WindowColumns | None:
    """Merge windows with their stored rows.

    Args:
        added: what the epoch adds; its numbers are of the type of its kind.
        stored: the row of each window, or None.
        codec: of the rows.

    Returns:
        the windows, or None if a stored row is of another kind: then ``merged_rows`` must do it.

    Raises:
        ProcessingError: a sum does not fit.
        TaskCorrupted: a stored row is not one of these aggregates.
    """
    heads, words = codec.unpack(stored, added.kind)
    head_column = column_of(heads, pa.int64())
    kinds = pc.bit_wise_and(head_column, 1)
    if not pc.all(pc.equal(kinds, int(added.kind))).as_py():
        return None
    numbers: dict[str, ArrowArray] = {}
    for name, column in added.numbers.items():
        held = column_of(words[name], ARROW_OF_KIND[added.kind])
        try:
            numbers[name] = _MERGE_COLUMNS[name](held, column)
        except ArrowError as reason:
            raise _overflow() from reason
    if added.kind is Kind.FLOAT and "sum" in numbers and not _all_finite(numbers["sum"]):
        raise _overflow()
    counts = pc.add(pc.shift_right(head_column, 1), added.counts)
    return WindowColumns(
        kind=added.kind,
        runs=added.runs,
        starts_ms=added.starts_ms,
        keys=added.keys,
        store_keys=added.store_keys,
        counts=counts,
        numbers=numbers,
    )


def merged_rows(
    parts: Sequence[WindowColumns], stored: Mapping[bytes, bytes], codec: RowCodec
) -> list[WindowColumns]:
    """Merge windows of any kinds, one by one.

    Args:
        parts: what the epoch adds; a window may be in several of them, and integers may be
            decimals.
        stored: the row of each window that has one, by store key.
        codec: of the rows.

    Returns:
        the windows, one part per kind.

    Raises:
        ProcessingError: a sum does not fit.
        TaskCorrupted: a stored row is not one of these aggregates.
    """
    totals: dict[bytes, _Total] = {}
    for part in parts:
        columns = [part.numbers[name].to_pylist() for name in codec.numbers]
        starts_ms = part.starts_ms.to_pylist()
        counts = part.counts.to_pylist()
        number_type = int if part.kind is Kind.INTEGER else float
        for index, store_key in enumerate(part.store_keys):
            total = totals.get(store_key)
            if total is None:
                total = _Total(starts_ms[index], part.keys[index], codec, stored.get(store_key))
                totals[store_key] = total
            total.add(part.kind, counts[index], [number_type(column[index]) for column in columns])
    ordered = sorted(totals.items(), key=lambda item: item[1].start_ms)
    return [
        _columns_of(kind, [item for item in ordered if item[1].kind is kind], codec)
        for kind in Kind
        if any(total.kind is kind for total in totals.values())
    ]


class _Total:
    """One window while it is merged by itself."""

    __slots__ = ("count", "key", "kind", "names", "numbers", "start_ms")

    def __init__(self, start_ms: int, key: bytes, codec: RowCodec, row: bytes | None) -> None:
        self.start_ms = start_ms
        self.key = key
        self.names = codec.numbers
        self.kind, self.count, self.numbers = codec.unpack_row(row)

    def add(self, kind: Kind, count: int, numbers: list[int | float]) -> None:
        """Add what one part has of this window."""
        if self.count == 0:
            self.kind, self.count, self.numbers = kind, count, numbers
            return
        self.kind = max(self.kind, kind)
        self.count += count
        self.numbers = [
            _MERGE_NUMBERS[name](held, number)
            for name, held, number in zip(self.names, self.numbers, numbers, strict=True)
        ]


def _columns_of(kind: Kind, totals: list[tuple[bytes, _Total]], codec: RowCodec) -> WindowColumns:
    """Give windows of one kind, sorted by start, as columns."""
    number_type = int if kind is Kind.INTEGER else float
    try:
        numbers = {
            name: pa.array(
                [number_type(total.numbers[position]) for _, total in totals], ARROW_OF_KIND[kind]
            )
            for position, name in enumerate(codec.numbers)
        }
    except (OverflowError, ArrowError) as reason:
        raise _overflow() from reason
    if kind is Kind.FLOAT and "sum" in numbers and not _all_finite(numbers["sum"]):
        raise _overflow()
    starts_ms = pa.array([total.start_ms for _, total in totals], pa.int64())
    return WindowColumns(
        kind=kind,
        runs=_runs(starts_ms),
        starts_ms=starts_ms,
        keys=[total.key for _, total in totals],
        store_keys=[store_key for store_key, _ in totals],
        counts=pa.array([total.count for _, total in totals], pa.int64()),
        numbers=numbers,
    )


def _all_finite(column: ArrowArray) -> bool:
    return pc.all(pc.is_finite(column)).as_py()


def _overflow() -> ProcessingError:
    return ProcessingError(
        "the sum of a window does not fit 64 bits; it was not stored, because a wrapped or "
        "infinite sum would be wrong from here on. Sum a smaller unit, or shorter windows"
    )
