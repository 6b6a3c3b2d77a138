"""What a columnar windowed aggregate computes, and what it gives out for a changed window.

Must never import Faust, Kafka or RocksDB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import Any, TypeAlias

from onceflow.columns.arrow import ArrowArray, ArrowTable, pa
from onceflow.columns.rows import texts_of
from onceflow.errors import ConfigError

Run: TypeAlias = tuple[int, int, int]
"""Rows of one window: its start in ms, the first row, the row after the last."""

RECORD_TIMESTAMP = "record"
"""``AggregateSpec.timestamp`` for the timestamp that Kafka delivers with the record."""

_NEEDS: dict[str, tuple[str, ...]] = {
    "count": (),
    "sum": ("sum",),
    "min": ("min",),
    "max": ("max",),
    "mean": ("sum",),
}
"""The aggregates, and which numbers a row must hold for each beside the count."""

_JSON_NAMES = {"count": "n"}
"""Names in the default output that differ from the aggregate's own."""


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """A windowed aggregate over one stream.

    Attributes:
        name: of the aggregate and of its table.
        key: the JSON field to group by, a string or an integer (17 and "17" are the same key);
            None groups by the record's own key.
        value: the JSON field that is summed, a number; None if only records are counted.
        aggregates: of ``count``, ``sum``, ``min``, ``max``, ``mean``; they are put out in this
            order. Sums are exact 64-bit integers as long as every value of the window was a JSON
            integer, and float64 from the first one with a fraction or an exponent on.
        size_ms: length of a window, a multiple of ``step_ms``.
        step_ms: distance between starts of windows, which lie at multiples of it since 1970;
            equal to ``size_ms`` for tumbling windows.
        timestamp: ``record`` for the record's timestamp, or a JSON field in integer milliseconds.
        expires_ms: how long after its end, in event time, a window is kept; None: for ever.
    """

    name: str
    key: str | None
    value: str | None
    aggregates: tuple[str, ...]
    size_ms: int
    step_ms: int
    timestamp: str = RECORD_TIMESTAMP
    expires_ms: int | None = None

    def __post_init__(self) -> None:
        unknown = [name for name in self.aggregates if name not in _NEEDS]
        if unknown or not self.aggregates or len(set(self.aggregates)) < len(self.aggregates):
            raise ConfigError(
                f"aggregate {self.name!r}: aggregates={self.aggregates!r}; name each of "
                f"{', '.join(_NEEDS)} at most once, and at least one"
            )
        if self.step_ms <= 0 or self.size_ms < self.step_ms or self.size_ms % self.step_ms:
            raise ConfigError(
                f"aggregate {self.name!r}: size_ms={self.size_ms} must be a positive multiple of "
                f"step_ms={self.step_ms}, so that each record lies in equally many windows"
            )
        if self.value is None and self.numbers:
            raise ConfigError(
                f"aggregate {self.name!r}: {', '.join(self.aggregates)} need value=, the JSON "
                "field to aggregate"
            )
        if self.expires_ms is not None and self.expires_ms < 0:
            raise ConfigError(f"aggregate {self.name!r}: expires_ms={self.expires_ms} is negative")

    @property
    def numbers(self) -> tuple[str, ...]:
        """Which of ``sum``, ``min``, ``max`` a row holds, in the order in which it holds them."""
        needed = {number for name in self.aggregates for number in _NEEDS[name]}
        return tuple(number for number in ("sum", "min", "max") if number in needed)


@dataclass(frozen=True)
class ChangedWindows:
    """Windows that an epoch changed, at least one, as columns; what an output function is given.

    Attributes:
        keys: the group's key per window.
        runs: (start, first row, row after the last) of each run of windows with equal starts.
        numbers: a list of integers, or of floats, per aggregate of the spec.
    """

    keys: list[bytes]
    runs: list[Run]
    numbers: dict[str, list[Any]]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def starts_ms(self) -> ArrowArray:
        """The window's start per window, an int64 column."""
        starts = chain.from_iterable(repeat(at, end - first) for at, first, end in self.runs)
        return pa.array(starts, pa.int64(), size=len(self))

    @cached_property
    def aggregates(self) -> dict[str, ArrowArray]:
        """The numbers as Arrow columns: int64 or float64, no nulls."""
        return {name: pa.array(numbers) for name, numbers in self.numbers.items()}

    def to_arrow(self) -> ArrowTable:
        """Give a ``pyarrow.Table`` with ``key``, ``start_ms`` and the aggregates."""
        keys = pa.array(self.keys, pa.binary())
        return pa.table({"key": keys, "start_ms": self.starts_ms, **self.aggregates})


OutputColumn: TypeAlias = Callable[[ChangedWindows], Sequence[bytes]]
"""Makes the keys, or the values, of the output records: one entry per changed window, in order.

It is called up to twice per partition and epoch: integer and float windows come apart, so that a
column has one type and integers stay exact.
"""


def key_at_start(windows: ChangedWindows) -> list[bytes]:
    """Give ``key@start`` per window, the start in milliseconds: the default output key."""
    texts: list[bytes] = []
    for start_ms, first, end in windows.runs:
        suffix = b"@%d" % start_ms
        texts += [key + suffix for key in windows.keys[first:end]]
    return texts


def json_object(windows: ChangedWindows) -> list[bytes]:
    """Give a JSON object per window, such as ``{"n":2,"sum":91.0}``: the default output value.

    Floats have the shortest digits that read back as the same number.
    """
    members = [b'"%b":%%b' % _JSON_NAMES.get(name, name).encode() for name in windows.numbers]
    template = b"{" + b",".join(members) + b"}"
    texts = zip(*map(texts_of, windows.numbers.values()), strict=True)
    return [template % window for window in texts]
