"""The columnar windowed aggregate: batches in, changed windows out once per epoch.

What it decides: the windows' rows. Theory of operation: ``update`` decodes a batch and checks it,
so that each error has its record, but only collects the columns; they are folded when there are
many, or at the seal, because the cost of folding is mostly per call. At the seal ``changed`` reads
the rows of the touched windows, merges, and gives out what the epoch changed. Few records are
folded without Arrow, with the same result (``fewrecords``). Until ``committed``
the merged rows are nowhere but in what ``changed`` returned; ``abort`` drops everything.

Rules of the file: sans-IO (the store is read through callbacks, nothing is written), no loop over
records in Python. An update takes effect wholly or not at all. Integers are exact; sums of floats
depend in their last digits on where batches and epochs end.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from onceflow.columns.arrow import ArrowArray, ArrowTable, ArrowType, load_whole, pa, pc
from onceflow.columns.fewrecords import few_windows
from onceflow.columns.grouping import SUM_WITHOUT_LOSS, Panes, grouped, regrouped
from onceflow.columns.merging import (
    Windows,
    listed,
    merged_columns,
    merged_lists,
    merged_rows,
    window_columns,
)
from onceflow.columns.reading import Chunk, RecordReader
from onceflow.columns.rows import ARROW_OF_KIND, Kind, RowCodec, window_prefix
from onceflow.columns.spec import (
    AggregateSpec,
    ChangedWindows,
    OutputColumn,
    Run,
    json_object,
    key_at_start,
)
from onceflow.columns.windowcache import WindowCache
from onceflow.errors import invariant
from onceflow.limits import CACHED_WINDOW_ROWS_MAX, FEW_RECORDS_MAX, UNFOLDED_RECORDS_MAX

if TYPE_CHECKING:
    from onceflow.columns.batch import RecordBatch

Fetch: TypeAlias = Callable[[list[bytes]], Sequence[bytes | None]]
"""Reads the committed rows of these store keys, one answer per key, in their order."""

Absent: TypeAlias = Callable[[bytes, bytes], bool]
"""Tells whether the store has no committed row from one store key up to, not including, another."""

INTEGER_SUM_SAFE = 1 << 62
"""Below this bound on a sum's magnitude int64 cannot overflow while a group is summed."""


@dataclass(frozen=True, slots=True)
class FoldedRows:
    """What an epoch changed in one partition: four lists of equal length, one entry per window.

    Attributes:
        store_keys: keys of the store and of the changelog.
        rows: values of the store and of the changelog.
        output_keys: keys of the output records.
        output_values: values of the output records.
    """

    store_keys: list[bytes]
    rows: list[bytes]
    output_keys: list[bytes]
    output_values: list[bytes]

    def __len__(self) -> int:
        return len(self.store_keys)


@dataclass(slots=True)
class _Pending:
    """What one partition received in this epoch.

    Attributes:
        fetch: reads the store.
        absent: asks the store whether a window is without rows, or None.
        chunks: what is not folded, by kind.
        groups: what is folded, by kind.
        chunk_records: how many records ``chunks`` hold.
        sum_bound: no integer sum of the epoch's records is larger than this.
        latest_ms: highest timestamp of the epoch's records.
    """

    fetch: Fetch
    absent: Absent | None
    chunks: dict[Kind, list[Chunk]] = field(default_factory=dict[Kind, list[Chunk]])
    groups: dict[Kind, ArrowTable] = field(default_factory=dict[Kind, ArrowTable])
    chunk_records: int = 0
    sum_bound: int = 0
    latest_ms: int | None = None


@dataclass(frozen=True, slots=True)
class _Sealed:
    """What ``changed`` gave out, until it is committed."""

    runs: list[Run]
    store_keys: list[bytes]
    rows: list[bytes]


class WindowedFold:
    """A windowed aggregate over the partitions of one worker.

    An epoch is any number of ``update``s, then ``changed`` once per partition, then ``committed``;
    or ``abort`` at any point.

    Args:
        spec: what to compute.
        output_keys: makes the keys of the output records; by default ``key@start``.
        output_values: makes their values; by default JSON, such as ``{"n":2,"sum":91.0}``.
        cached_rows_max: how many committed rows to remember, so that they need not be read again;
            0 turns it off.
    """

    def __init__(
        self,
        spec: AggregateSpec,
        *,
        output_keys: OutputColumn = key_at_start,
        output_values: OutputColumn = json_object,
        cached_rows_max: int = CACHED_WINDOW_ROWS_MAX,
    ) -> None:
        load_whole()
        self.spec = spec
        self._output_keys = output_keys
        self._output_values = output_values
        self._reader = RecordReader(spec)
        self._panes = Panes(spec.size_ms, spec.step_ms)
        self._few_records_max = FEW_RECORDS_MAX * spec.step_ms // spec.size_ms
        self._codec = RowCodec(spec.numbers)
        self._cache = WindowCache(cached_rows_max)
        self._pending: dict[int, _Pending] = {}
        self._sealed: dict[int, list[_Sealed]] = {}
        # Windows that had no row in the store when the seal looked: (partition, start).
        self._whole: set[tuple[int, int]] = set()
        self._horizon_ms: dict[int, int] = {}

    def update(
        self, partition: int, batch: RecordBatch, fetch: Fetch, absent: Absent | None = None
    ) -> None:
        """Take a batch into the epoch, wholly or, if it raises, not at all.

        Args:
            partition: whose windows it goes into.
            batch: the records.
            fetch: reads committed rows; it is kept and called at the seal.
            absent: tells whether a range of the store is empty; it is kept and called at the seal,
                once per window that was not seen before. With it, keys of windows that begin
                while this worker runs are never read. None: they are read one by one.

        Raises:
            ColumnDecodeError: names the record at fault. Reaction: let it out of the agent.
        """
        invariant(
            partition not in self._sealed,
            "INV-EPOCH-3: an update between the seal and the end of its epoch",
            partition=partition,
        )
        if not len(batch):
            return
        reading = self._reader.read(batch)
        pending = self._pending.get(partition)
        if pending is None:
            pending = self._pending[partition] = _Pending(fetch, absent)
        pending.fetch, pending.absent = fetch, absent
        for kind, chunk in reading.chunks.items():
            pending.chunks.setdefault(kind, []).append(chunk)
            pending.sum_bound += chunk.magnitude * len(chunk)
        pending.chunk_records += len(batch)
        if pending.latest_ms is None or reading.latest_ms > pending.latest_ms:
            pending.latest_ms = reading.latest_ms
        if pending.chunk_records >= UNFOLDED_RECORDS_MAX:
            self._fold(pending)

    def latest_ms(self, partition: int) -> int | None:
        """Give the highest event time among the epoch's records of a partition, or None."""
        pending = self._pending.get(partition)
        return None if pending is None else pending.latest_ms

    def changed(self, partition: int) -> FoldedRows:
        """Fold the epoch of a partition and give every window that it changed, each once.

        Raises:
            ProcessingError: a sum does not fit 64 bits; no single record is to blame. Reaction:
                abort the epoch; smaller epochs find the record.
            TaskCorrupted: a stored row is not one of this aggregate.
        """
        folded = FoldedRows([], [], [], [])
        pending = self._pending.pop(partition, None)
        if pending is None:
            return folded
        few = not pending.groups and pending.chunk_records <= self._few_records_max
        merge = self._merged_few if few else self._merged_many
        sealed = self._sealed.setdefault(partition, [])
        for windows in merge(partition, pending):
            rows = self._codec.pack(windows.kind, windows.counts, windows.numbers)
            outputs = self._outputs(windows)
            folded.store_keys.extend(windows.store_keys)
            folded.rows.extend(rows)
            folded.output_keys.extend(self._output_keys(outputs))
            folded.output_values.extend(self._output_values(outputs))
            sealed.append(_Sealed(windows.runs, windows.store_keys, rows))
        return folded

    def committed(self) -> None:
        """Take note that Kafka has committed the epoch and the store has taken its rows."""
        invariant(
            not self._pending,
            "INV-EPOCH-2: an epoch committed whose records were not folded",
            partitions=sorted(self._pending),
        )
        for partition, parts in self._sealed.items():
            horizon_ms = self._horizon_ms.get(partition)
            for part in parts:
                for start_ms, first, end in part.runs:
                    if horizon_ms is not None and start_ms < horizon_ms:
                        continue
                    entries = zip(part.store_keys[first:end], part.rows[first:end], strict=True)
                    whole = (partition, start_ms) in self._whole
                    self._whole.discard((partition, start_ms))
                    self._cache.remember(partition, start_ms, entries, whole=whole)
        self._sealed.clear()
        self._whole.clear()

    def abort(self) -> None:
        """Drop everything that is not committed, and whatever is remembered of the store."""
        self._pending.clear()
        self._sealed.clear()
        self._whole.clear()
        self._horizon_ms.clear()
        self._cache.clear()

    def forget(self, partition: int) -> None:
        """Drop all about a partition that leaves: another worker will write its rows."""
        self._pending.pop(partition, None)
        self._sealed.pop(partition, None)
        self._horizon_ms.pop(partition, None)
        self._cache.forget(partition)

    def expired(self, partition: int, stream_time_ms: int) -> bytes | None:
        """Give the horizon of a partition: all store keys below it belong to expired windows.

        Args:
            partition: whose windows.
            stream_time_ms: highest event time that the partition has seen.

        Returns:
            the exclusive upper bound of a range delete, or None if nothing expires. A record that
            comes later than that starts its window from nothing.
        """
        if self.spec.expires_ms is None:
            return None
        horizon_ms = stream_time_ms - self.spec.expires_ms - self.spec.size_ms + 1
        self._horizon_ms[partition] = horizon_ms
        self._cache.forget(partition, before_ms=horizon_ms)
        return window_prefix(horizon_ms)

    def _fold(self, pending: _Pending) -> None:
        """Turn the collected records into groups."""
        numbers = self._codec.numbers
        exact = pending.sum_bound >= INTEGER_SUM_SAFE
        for kind, chunks in pending.chunks.items():
            timestamps_ms = _joined([chunk.timestamps_ms for chunk in chunks], pa.int64())
            keys = _joined([chunk.keys for chunk in chunks], pa.binary())
            values = None
            if numbers:
                values = _joined([chunk.values for chunk in chunks], ARROW_OF_KIND[kind])
                if exact and kind is Kind.INTEGER:
                    values = pc.cast(values, SUM_WITHOUT_LOSS)
            groups = grouped(self._panes.starts(timestamps_ms), keys, values, numbers)
            held = pending.groups.get(kind)
            if held is not None:
                groups = regrouped([held.cast(groups.schema), groups], numbers)
            pending.groups[kind] = groups
        pending.chunks.clear()
        pending.chunk_records = 0

    def _merged_few(self, partition: int, pending: _Pending) -> list[Windows[list[Any]]]:
        """Fold few records, and merge what they add with the committed rows."""
        added = [
            few_windows(kind, chunks, self._panes, self._codec.numbers)
            for kind, chunks in pending.chunks.items()
        ]
        stored = [self._stored(partition, pending, windows) for windows in added]
        if len(added) == 1:
            merged = merged_lists(added[0], stored[0], self._codec)
            if merged is not None:
                return [merged]
        return self._merged_rows(added, stored)

    def _merged_many(self, partition: int, pending: _Pending) -> list[Windows[list[Any]]]:
        """Fold the epoch's records, and merge what they add with the committed rows."""
        self._fold(pending)
        numbers = self._codec.numbers
        added = [
            window_columns(kind, self._panes.spread(groups, numbers), numbers)
            for kind, groups in pending.groups.items()
        ]
        stored = [self._stored(partition, pending, windows) for windows in added]
        if len(added) == 1 and pending.sum_bound < INTEGER_SUM_SAFE:
            merged = merged_columns(added[0], stored[0], self._codec)
            if merged is not None:
                return [merged]
        return self._merged_rows(list(map(listed, added)), stored)

    def _merged_rows(
        self, added: list[Windows[list[Any]]], stored: list[list[bytes | None]]
    ) -> list[Windows[list[Any]]]:
        """Merge windows one by one with the committed rows."""
        rows = {
            store_key: row
            for windows, answers in zip(added, stored, strict=True)
            for store_key, row in zip(windows.store_keys, answers, strict=True)
            if row is not None
        }
        return merged_rows(added, rows, self._codec)

    def _stored(
        self, partition: int, pending: _Pending, windows: Windows[Any]
    ) -> list[bytes | None]:
        """Give the committed row of each window, from memory where it is known."""
        rows: list[bytes | None] = []
        unknown: list[int] = []
        for start_ms, first, end in windows.runs:
            cached = self._cache.window(partition, start_ms)
            if cached is not None:
                found = list(map(cached.rows.get, windows.store_keys[first:end]))
                rows += found
                if not cached.whole:
                    unknown += [at for at, row in enumerate(found, first) if row is None]
                continue
            rows += [None] * (end - first)
            if pending.absent is not None and pending.absent(
                window_prefix(start_ms), window_prefix(start_ms + 1)
            ):
                self._whole.add((partition, start_ms))
            else:
                unknown += range(first, end)
        if unknown:
            answers = pending.fetch([windows.store_keys[at] for at in unknown])
            for at, row in zip(unknown, answers, strict=True):
                rows[at] = row
        return rows

    def _outputs(self, windows: Windows[list[Any]]) -> ChangedWindows:
        """Give the windows as an output function sees them."""
        aggregates = {"count": windows.counts, **windows.numbers}
        if "mean" in self.spec.aggregates:
            sums = windows.numbers["sum"]
            aggregates["mean"] = [
                float(total) / count for total, count in zip(sums, windows.counts, strict=True)
            ]
        return ChangedWindows(
            windows.keys,
            windows.runs,
            {name: aggregates[name] for name in self.spec.aggregates},
        )


def _joined(columns: list[list[Any] | ArrowArray], arrow_type: ArrowType) -> ArrowArray:
    """Give one Arrow column of several columns."""
    return pa.concat_arrays(
        [pa.array(column, arrow_type) if isinstance(column, list) else column for column in columns]
    )
