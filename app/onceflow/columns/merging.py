"""Merges what an epoch adds to windows with the rows that the store holds.

Three ways with the same result. Windows that are all of one kind, added and stored, are merged
column by column: by ``merged_columns`` in Arrow, by ``merged_lists`` without it, because a column
costs Arrow as much as some fifty numbers cost Python. ``merged_rows`` takes what is left, windows
in which integers and floats meet and integers that could overflow, and loops over the windows (not
the records).

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

import math
import operator
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from onceflow.columns.arrow import ArrowArray, ArrowError, ArrowTable, pa, pc
from onceflow.columns.rows import (
    ARROW_OF_KIND,
    Kind,
    RowCodec,
    bytes_of,
    column_of,
    numbers_of,
    window_prefix,
)
from onceflow.errors import ProcessingError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onceflow.columns.spec import Run

Column = TypeVar("Column")

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
class Windows(Generic[Column]):
    """Windows of one kind as columns, in runs of equal starts.

    ``Windows[ArrowArray]`` has int64 and float64 columns (or decimals, where integers could
    overflow), ``Windows[list[Any]]`` plain integers and floats.

    Attributes:
        kind: of all of them.
        runs: which rows belong to which window.
        keys: the groups' keys.
        store_keys: where their rows are stored.
        counts: records of the epoch, or of the whole window once merged.
        numbers: a column per number of the row: of the epoch, or of the window once merged.
    """

    kind: Kind
    runs: list[Run]
    keys: list[bytes]
    store_keys: list[bytes]
    counts: Column
    numbers: dict[str, Column]


def window_columns(kind: Kind, groups: ArrowTable, numbers: tuple[str, ...]) -> Windows[ArrowArray]:
    """Give the groups as columns, sorted by window."""
    extent = pc.min_max(groups["start"])
    if extent["min"] != extent["max"]:
        groups = groups.sort_by("start")
    groups = groups.combine_chunks()
    columns = {name: groups[name].chunk(0) for name in groups.column_names}
    encoded = pc.run_end_encode(columns["start"])
    starts_ms, ends = encoded.values.to_pylist(), encoded.run_ends.to_pylist()
    runs = list(zip(starts_ms, [0, *ends], ends, strict=False))
    keys = bytes_of(columns["key"])
    return Windows(
        kind=kind,
        runs=runs,
        keys=keys,
        store_keys=store_keys_of(runs, keys),
        counts=columns["count"],
        numbers={name: columns[name] for name in numbers},
    )


def store_keys_of(runs: Sequence[Run], keys: Sequence[bytes]) -> list[bytes]:
    """Give the store key of each window."""
    store_keys: list[bytes] = []
    for start_ms, first, end in runs:
        prefix = window_prefix(start_ms)
        store_keys += [prefix + key for key in keys[first:end]]
    return store_keys


def runs_of(starts_ms: Iterable[int]) -> list[Run]:
    """Give the runs of equal starts, which are sorted."""
    runs: list[Run] = []
    first = 0
    for start_ms, count in Counter(starts_ms).items():
        runs.append((start_ms, first, first + count))
        first += count
    return runs


def listed(windows: Windows[ArrowArray]) -> Windows[list[Any]]:
    """Give the same windows with plain numbers, also of decimals."""
    number_type = int if windows.kind is Kind.INTEGER else float
    return _with_columns(
        windows,
        windows.counts.to_pylist(),
        {
            name: [number_type(number) for number in column.to_pylist()]
            for name, column in windows.numbers.items()
        },
    )


def merged_columns(
    added: Windows[ArrowArray], stored: Sequence[bytes | None], codec: RowCodec
) -> Windows[list[Any]] | None:
    """Merge windows with their stored rows, in Arrow.

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
    counts = pc.add(pc.shift_right(head_column, 1), added.counts)
    if (
        added.kind is Kind.FLOAT
        and "sum" in numbers
        and not pc.all(pc.is_finite(numbers["sum"])).as_py()
    ):
        raise _overflow()
    return _with_columns(
        added, numbers_of(counts), {name: numbers_of(column) for name, column in numbers.items()}
    )


def merged_lists(
    added: Windows[list[Any]], stored: Sequence[bytes | None], codec: RowCodec
) -> Windows[list[Any]] | None:
    """Merge windows with their stored rows, without Arrow; otherwise as ``merged_columns``."""
    heads, *words = codec.unpack_few(stored, added.kind)
    kind = int(added.kind)
    if any(head & 1 != kind for head in heads):
        return None
    numbers = {
        name: list(map(_MERGE_NUMBERS[name], held, added.numbers[name]))
        for name, held in zip(codec.numbers, words, strict=True)
    }
    counts = [(head >> 1) + count for head, count in zip(heads, added.counts, strict=True)]
    _check_sums(added.kind, numbers)
    return _with_columns(added, counts, numbers)


def merged_rows(
    parts: Sequence[Windows[list[Any]]], stored: Mapping[bytes, bytes], codec: RowCodec
) -> list[Windows[list[Any]]]:
    """Merge windows of any kinds, one by one.

    Args:
        parts: what the epoch adds; a window may be in several of them.
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
        columns = [part.numbers[name] for name in codec.numbers]
        starts_ms = [at for at, first, end in part.runs for _ in range(first, end)]
        for index, store_key in enumerate(part.store_keys):
            total = totals.get(store_key)
            if total is None:
                total = _Total(starts_ms[index], part.keys[index], codec, stored.get(store_key))
                totals[store_key] = total
            total.add(part.kind, part.counts[index], [column[index] for column in columns])
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


def _columns_of(
    kind: Kind, totals: list[tuple[bytes, _Total]], codec: RowCodec
) -> Windows[list[Any]]:
    """Give windows of one kind, sorted by start, as columns."""
    number_type = int if kind is Kind.INTEGER else float
    numbers = {
        name: [number_type(total.numbers[position]) for _, total in totals]
        for position, name in enumerate(codec.numbers)
    }
    _check_sums(kind, numbers)
    return Windows(
        kind=kind,
        runs=runs_of(total.start_ms for _, total in totals),
        keys=[total.key for _, total in totals],
        store_keys=[store_key for store_key, _ in totals],
        counts=[total.count for _, total in totals],
        numbers=numbers,
    )


def _with_columns(
    windows: Windows[Any], counts: list[int], numbers: dict[str, list[Any]]
) -> Windows[list[Any]]:
    """Give the same windows with other columns."""
    return Windows(windows.kind, windows.runs, windows.keys, windows.store_keys, counts, numbers)


def _check_sums(kind: Kind, numbers: Mapping[str, list[Any]]) -> None:
    """Refuse sums that do not fit; minimum and maximum are numbers that were read."""
    sums = numbers.get("sum")
    if sums is None:
        return
    if kind is Kind.FLOAT:
        fits = all(map(math.isfinite, sums))
    else:
        fits = min(sums) >= -(1 << 63) and max(sums) < 1 << 63
    if not fits:
        raise _overflow()


def _overflow() -> ProcessingError:
    return ProcessingError(
        "the sum of a window does not fit 64 bits; it was not stored, because a wrapped or "
        "infinite sum would be wrong from here on. Sum a smaller unit, or shorter windows"
    )
