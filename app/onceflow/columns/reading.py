"""Reads from a batch the columns that an aggregate needs, and checks every record of it.

What it decides: which record is at fault. All that can be wrong with a record is found here, before
any of its batch is folded: no JSON, a field that is missing, null or of another type, no key, a
number or a timestamp out of bounds.

Columns of few records stay lists, which cost nothing to make; those of more become Arrow arrays.
Lists of the batch itself are copied, because the batch is the agent's.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, Any, TypeAlias

from onceflow.columns.arrow import ArrowArray, pa, pc
from onceflow.columns.jsonrows import JsonRows
from onceflow.columns.rows import Kind
from onceflow.columns.spec import RECORD_TIMESTAMP, AggregateSpec
from onceflow.limits import EVENT_TIME_MS_MAX, FEW_RECORDS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow.columns.batch import RecordBatch


Column: TypeAlias = list[Any] | ArrowArray
"""A list if its batch has up to ``FEW_RECORDS_MAX`` records, else an Arrow array."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Columns of records of one kind.

    Attributes:
        timestamps_ms: int64.
        keys: binary, without nulls.
        values: int64 or float64; None if only records are counted.
        magnitude: no integer value is larger than this.
    """

    timestamps_ms: Column
    keys: Column
    values: Column | None
    magnitude: int = 0

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch as an aggregate sees it.

    Attributes:
        chunks: the records by kind; a batch of integers and floats has both.
        latest_ms: highest timestamp of the batch.
    """

    chunks: dict[Kind, Chunk]
    latest_ms: int


class RecordReader:
    """Reads batches for one aggregate."""

    def __init__(self, spec: AggregateSpec) -> None:
        self._key, self._value = spec.key, spec.value
        self._timestamp = None if spec.timestamp == RECORD_TIMESTAMP else spec.timestamp
        roles: dict[str, list[Any]] = {}
        for name, accepted in (
            (self._key, str | int),
            (self._value, int | float),
            (self._timestamp, int),
        ):
            if name is not None:
                roles.setdefault(name, []).append(accepted)
        # One field in two roles, such as the highest timestamp, can only be an integer.
        self._rows = JsonRows(
            {name: accepted[0] if len(accepted) == 1 else int for name, accepted in roles.items()}
        )
        self._reads_json = bool(roles)

    def read(self, batch: RecordBatch) -> Reading:
        """Read a batch that is not empty.

        Raises:
            ColumnDecodeError: names the record at fault.
        """
        documents = self._rows.decode(batch) if self._reads_json else []
        timestamps_ms, latest_ms = self._timestamps(batch, documents)
        keys = self._keys(batch, documents)
        if self._value is None:
            return Reading({Kind.INTEGER: Chunk(timestamps_ms, keys, None)}, latest_ms)
        values = self._rows.column(documents, self._value)
        chunks: dict[Kind, Chunk] = {}
        types = set(map(type, values))
        if types == {float}:
            chunks[Kind.FLOAT] = Chunk(timestamps_ms, keys, _floats(values))
        elif types == {int}:
            column, magnitude = self._integers(batch, values)
            chunks[Kind.INTEGER] = Chunk(timestamps_ms, keys, column, magnitude)
        else:
            # The integers are checked among the others, so that an error names the right record.
            whole = [value if type(value) is int else 0 for value in values]
            column, magnitude = self._integers(batch, whole)
            mask = _mask([type(value) is int for value in values])
            rest = _mask([type(value) is float for value in values])
            chunks[Kind.INTEGER] = Chunk(
                _picked(timestamps_ms, mask), _picked(keys, mask), _picked(column, mask), magnitude
            )
            floats = _floats([value for value in values if type(value) is float])
            chunks[Kind.FLOAT] = Chunk(_picked(timestamps_ms, rest), _picked(keys, rest), floats)
        return Reading(chunks, latest_ms)

    def _keys(self, batch: RecordBatch, documents: list[Any]) -> Column:
        """Give the group key of each record as its bytes."""
        if self._key is None:
            if None in batch.keys:
                raise batch.blame(
                    batch.keys.index(None), "key", "there is none, and records are grouped by it"
                )
            return batch.keys[:] if _are_few(batch.keys) else pa.array(batch.keys, pa.binary())
        keys = self._rows.column(documents, self._key)
        try:
            return _binary(keys)
        except TypeError:
            return _binary([str(key) for key in keys])

    def _timestamps(self, batch: RecordBatch, documents: list[Any]) -> tuple[Column, int]:
        """Give the event time of each record, and the highest."""
        if self._timestamp is None:
            what, timestamps = "timestamp", batch.timestamps[:]
        else:
            what = f"field {self._timestamp!r}"
            timestamps = self._rows.column(documents, self._timestamp)
        column, earliest_ms, latest_ms = _int64(batch, what, timestamps)
        if max(-earliest_ms, latest_ms) > EVENT_TIME_MS_MAX:
            index = next(i for i, at in enumerate(timestamps) if abs(at) > EVENT_TIME_MS_MAX)
            raise batch.blame(
                index, what, f"{timestamps[index]} is no time in milliseconds: out of bounds"
            )
        return column, latest_ms

    def _integers(self, batch: RecordBatch, values: list[int]) -> tuple[Column, int]:
        """Give a column of integer values, and their bound."""
        column, lowest, highest = _int64(batch, f"field {self._value!r}", values)
        return column, max(-lowest, highest)


def _are_few(entries: Sequence[Any]) -> bool:
    return len(entries) <= FEW_RECORDS_MAX


def _int64(batch: RecordBatch, what: str, numbers: list[int]) -> tuple[Column, int, int]:
    """Give a column of integers, the lowest and the highest.

    Raises:
        ColumnDecodeError: names the first record whose integer does not fit 64 bits.
    """
    if _are_few(numbers):
        lowest, highest = min(numbers), max(numbers)
        if lowest >= -(1 << 63) and highest < 1 << 63:
            return numbers, lowest, highest
    try:
        column = pa.array(numbers, pa.int64())
    except OverflowError:
        for index, number in enumerate(numbers):
            if not -(1 << 63) <= number < 1 << 63:
                raise batch.blame(index, what, f"{number} does not fit 64 bits") from None
        raise
    extent = pc.min_max(column)
    return column, extent["min"].as_py(), extent["max"].as_py()


def _floats(numbers: list[float]) -> Column:
    return numbers if _are_few(numbers) else pa.array(numbers, pa.float64())


def _binary(texts: list[str]) -> Column:
    """Give texts as bytes; a TypeError tells that some are integers."""
    return list(map(str.encode, texts)) if _are_few(texts) else pa.array(texts, pa.binary())


def _mask(chosen: list[bool]) -> Column:
    return chosen if _are_few(chosen) else pa.array(chosen)


def _picked(column: Column, mask: Column) -> Column:
    """Give the entries of a column where the mask is true."""
    return list(compress(column, mask)) if _are_few(mask) else pc.filter(column, mask)
