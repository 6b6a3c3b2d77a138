"""Windowed tables: Faust's wrapper and window set, over epochs and event time.

The window of a record follows the record's timestamp (or the field that the table is relative to).
Ranges are Faust's, with ends at ``start + size - 0.1``, because they are part of the changelog's
keys. Store keys put the window's start first, so that what expires lies together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from faust.tables.wrappers import WindowSet as FaustWindowSet
from faust.tables.wrappers import WindowWrapper as FaustWindowWrapper

from onceflow.engine.codecs import JSON_OPTIONS
from onceflow.engine.records import RecordEvent, current_event_ref
from onceflow.engine.table_partition import ABSENT
from onceflow.state.keys import split_window_key, to_changelog, window_key

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.engine.table_partition import TableCodec


class WindowedCodec:
    """Keys of a windowed table: (key, (start, end)), the window's bounds first in the store."""

    windowed = True

    def __init__(self, plain: TableCodec) -> None:
        self.name = plain.name
        self.stable = plain.stable
        self._plain = plain
        self.encode_value = plain.encode_value
        self.decode_value = plain.decode_value

    def store_key(self, key: Any) -> bytes:
        """Return bounds, then the key as JSON."""
        inner, (start_s, end_s) = key
        if inner.__class__ is str:
            return window_key(orjson.dumps(inner, option=JSON_OPTIONS), start_s, end_s)
        return window_key(self._plain.store_key(inner), start_s, end_s)

    def changelog_key(self, store_key: bytes) -> bytes:
        """Return Faust's key: ``[key,[start,end]]`` as JSON."""
        return to_changelog(store_key)

    def key_of(self, store_key: bytes) -> Any:
        """Return (key, (start, end))."""
        parts = split_window_key(store_key)
        return self._plain.key_of(parts.inner), (parts.start_s, parts.end_s)


class WindowSet(FaustWindowSet):
    """The windows of one key at the current record."""

    def apply(self, op: Callable[[Any, Any], Any], value: Any, event: Any = None) -> Any:
        """Change the key's value in every window that the record falls into."""
        table: Any = self.table
        wrapper: Any = self.wrapper
        part = table.part_for_write()
        timestamp = wrapper.get_timestamp(event or self.event)
        if wrapper.key_index_table is not None:
            wrapper.on_set_key(self.key, value)
        key = self.key
        for window_range in wrapper.ranges(timestamp):
            cell = part.cell((key, window_range))
            present = cell.value if cell.fresh else part.read(cell)
            if present is ABSENT:
                present = table.__missing__(key)
            part.write(cell, op(present, value))
        part.stream_time = max(part.stream_time, timestamp)
        return self

    def now(self) -> Any:
        """Return the value in the window of the system clock."""
        table: Any = self.table
        return table._windowed_now(self.key)  # noqa: SLF001 - Faust's own

    def value(self, event: Any = None) -> Any:
        """Return the value in the window that the table's time relativity selects."""
        wrapper: Any = self.wrapper
        return self._at(wrapper.get_timestamp(event or self.event))

    def current(self, event: Any = None) -> Any:
        """Return the value in the record's window."""
        table: Any = self.table
        return self._at(table._relative_event(event or self.event))  # noqa: SLF001 - Faust's own

    def _at(self, timestamp: float) -> Any:
        wrapper: Any = self.wrapper
        return self.table[(self.key, wrapper.newest(timestamp))]


class WindowWrapper(FaustWindowWrapper):
    """A windowed table, with the ranges of recent timestamps at hand."""

    ValueType = WindowSet

    def __init__(self, table: Any, **options: Any) -> None:
        super().__init__(table, **options)
        self._ranges: dict[int, list[tuple[float, float]]] = {}
        table.key_index_table = self.key_index_table
        self._window: Any = table.window
        self._step: float = table.window.step
        self._is_relative_to_stream = self._get_relative_timestamp == table._relative_event  # noqa: SLF001

    def ranges(self, timestamp: float) -> list[tuple[float, float]]:
        """Return the windows that ``timestamp`` falls into, oldest first."""
        bucket = int(timestamp // self._step)
        ranges = self._ranges.get(bucket)
        if ranges is None:
            if len(self._ranges) > _RANGES_KEPT:
                self._ranges.clear()
            ranges = self._window.ranges(timestamp)
            self._ranges[bucket] = ranges
        return ranges

    def newest(self, timestamp: float) -> tuple[float, float]:
        """Return the newest window at ``timestamp``."""
        return self.ranges(timestamp)[-1]

    def get_timestamp(self, event: Any = None) -> float:
        """Return the time that selects the windows of ``event`` (default: the current record)."""
        if event is None:
            reference = current_event_ref.get(None)
            event = reference() if reference is not None else None
        if event.__class__ is RecordEvent and (
            self._get_relative_timestamp is None or self._is_relative_to_stream
        ):
            return event.timestamp
        return super().get_timestamp(event)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, WindowSet):
            return
        table: Any = self.table
        part = table.part_for_write()
        self.on_set_key(key, value)
        timestamp = self.get_timestamp()
        for window_range in self.ranges(timestamp):
            part.write(part.cell((key, window_range)), value)
        part.stream_time = max(part.stream_time, timestamp)


_RANGES_KEPT = 1024
"""Buckets whose ranges are kept: out-of-order events move between a few, replays between many."""
