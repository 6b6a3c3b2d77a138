"""One partition of one table while an epoch runs: cells over the committed store.

A cell is the uncommitted or cached state of one key. What the agent writes goes into cells; at the
seal every dirty cell becomes one changelog record and one row for the store, however often it was
written; an abort forgets all cells. Mutable values are encoded when they are set, so that an error
has a record to blame and later changes of the object change nothing; plain numbers and booleans
cannot fail and are encoded once, at the seal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from onceflow.engine.expiry import ExpiredRows, Expiry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from onceflow.state.task_store import TaskStore

CELLS_KEPT_MAX = 20_000
"""Clean cells kept per table partition, about 300 bytes each: a hot key is then neither read nor
encoded again in the next epoch."""


class _Absent:
    """The value of a cell whose key is not in the table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Any = _Absent()
_INT64_MIN, _UINT64_END = -(2**63), 2**64
"""What Faust's JSON codec (orjson) can encode of integers."""
_IMMUTABLE: frozenset[type[Any]] = frozenset({int, float, bool, str, bytes})
"""Classes whose values may be shared between reads."""
_WITHOUT_NAN: frozenset[type[Any]] = frozenset({str, bytes})
"""Classes whose encoded values are known to decode to an equal one. (A NaN becomes null.)"""


class TableCodec(Protocol):
    """How a table's keys and values become bytes; plain and windowed tables differ in keys.

    Attributes:
        name: the table's name in the store.
        windowed: whether keys are (key, (start, end)).
        stable: classes whose values come out of `decode_value` equal and of the same class.
    """

    name: str
    windowed: bool
    stable: frozenset[type[Any]]

    def store_key(self, key: Any) -> bytes:
        """Return the key in the store."""
        ...

    def changelog_key(self, store_key: bytes) -> bytes:
        """Return Faust's changelog key of a store key."""
        ...

    def key_of(self, store_key: bytes) -> Any:
        """Return the key as the agent sees it."""
        ...

    def encode_value(self, value: Any) -> bytes:
        """Encode a value as Faust does."""
        ...

    def decode_value(self, row: bytes) -> Any:
        """Decode a value as Faust does."""
        ...


class Cell:
    """State of one key.

    Fields:
        store_key: the key in the store.
        row: encoded value; None when absent, or when ``value`` is a number not encoded yet.
        value: decoded value if it may be shared between reads, ABSENT, or None when ``row`` must be
            decoded afresh at each read because the value is mutable.
        fresh: whether ``value`` may be returned as it is.
        dirty: whether the epoch changed it.
    """

    __slots__ = ("dirty", "fresh", "row", "store_key", "value")

    def __init__(self, store_key: bytes, row: bytes | None) -> None:
        self.store_key = store_key
        self.row = row
        self.value: Any = ABSENT if row is None else None
        self.fresh = row is None
        self.dirty = False


class SealedRows:
    """What one table partition contributes to an epoch, as columns.

    Fields:
        store_keys, values: rows for the store, None for a deleted one.
        deleted_ranges: store keys ``[start, stop)`` that are gone; rows are written after them.
        changelog_keys: keys of the changelog records.
        changelog_values: values of the changelog records where they are not those of the rows.
    """

    __slots__ = ("changelog_keys", "changelog_values", "deleted_ranges", "store_keys", "values")

    def __init__(self) -> None:
        self.store_keys: list[bytes] = []
        self.changelog_keys: list[bytes] = []
        self.values: list[bytes | None] = []
        self.changelog_values: list[bytes | None] | None = None
        self.deleted_ranges: list[tuple[bytes, bytes]] = []

    def __len__(self) -> int:
        return len(self.changelog_keys)

    def produced_values(self) -> list[bytes | None]:
        """Return the values of the changelog records."""
        return self.values if self.changelog_values is None else self.changelog_values


class TablePartition:
    """Cells of one partition of one table, over that task's store.

    Fields:
        changed_bytes: keys and encoded values that the epoch holds, about.
        cells: cells by key as the agent gives it; several keys may share one (see `cell`).
        by_store_key: the same cells by the bytes of their keys. Invariant: one cell per key in
            the store, so that a key cannot have two values in an epoch.
        dirty: cells that the epoch changed.
        stream_time: largest event time written so far, seconds; -inf before the first.
        settled_time: the same as of the last committed epoch.
        expiry: finds windows that are over.
        expired: rows that the epoch deletes because their windows are over.
    """

    __slots__ = (
        "by_store_key",
        "cells",
        "changed_bytes",
        "codec",
        "dirty",
        "expired",
        "expiry",
        "number",
        "settled_time",
        "store",
        "stream_time",
    )

    def __init__(self, codec: TableCodec, number: int, store: TaskStore) -> None:
        self.codec = codec
        self.number = number
        self.store = store
        self.cells: dict[Any, Cell] = {}
        self.by_store_key: dict[bytes, Cell] = {}
        self.dirty: list[Cell] = []
        self.changed_bytes = 0
        self.stream_time = float("-inf")
        self.settled_time = float("-inf")
        self.expiry = Expiry(store, codec.name)
        self.expired = ExpiredRows()

    def cell(self, key: Any) -> Cell:
        """Return the cell of ``key``, reading the store when no cell has it.

        Cells are found by the key itself where equal keys are the same bytes: strings, integers,
        and windows of strings. All others (``1.0 == 1 == True``) go by their encoded bytes.
        """
        cls = key.__class__
        if cls is str:
            index = key
        elif cls is int:
            index = (int, key)
        elif cls is tuple and self.codec.windowed and key[0].__class__ is str:
            index = key
        else:
            index = self.codec.store_key(key)
        cell = self.cells.get(index)
        if cell is None:
            store_key = self.codec.store_key(key)
            cell = self.by_store_key.get(store_key)
            if cell is None:
                cell = Cell(store_key, self.store.get(self.codec.name, store_key))
                self.by_store_key[store_key] = cell
            self.cells[index] = cell
        return cell

    def has(self, store_key: bytes) -> bool:
        """Return whether the key is in the table, as the epoch sees it."""
        cell = self.by_store_key.get(store_key)
        if cell is not None:
            return not (cell.fresh and cell.value is ABSENT)
        return self.store.get(self.codec.name, store_key) is not None

    def value(self, key: Any) -> Any:
        """Return the value of ``key`` or ABSENT."""
        cell = self.cell(key)
        if cell.fresh:
            return cell.value
        return self.read(cell)

    def read(self, cell: Cell) -> Any:
        """Decode a cell's row; a value that cannot be changed in place is kept decoded."""
        row = cell.row
        if row is None:
            return ABSENT
        value = self.codec.decode_value(row)
        if value.__class__ in _IMMUTABLE:
            cell.value = value
            cell.fresh = True
        return value

    def write(self, cell: Cell, value: Any) -> None:
        """Set a cell's value; mutable values are encoded at once.

        Raises:
            Exception: whatever the table's serializer raises; the record being processed is to
                blame.
        """
        cls = value.__class__
        stable = cls in self.codec.stable
        # A number that certainly can be encoded is encoded once, at the seal: integers that fit
        # into JSON's 64 bits, and finite floats, of which the difference to themselves is 0.
        if stable and (
            (cls is int and _INT64_MIN <= value < _UINT64_END)
            or (cls is float and value - value == 0.0)
            or cls is bool
        ):
            cell.row = None
            cell.value = value
            cell.fresh = True
        else:
            before = cell.row if cell.dirty else None
            cell.row = self.codec.encode_value(value)
            self.changed_bytes += len(cell.row) - (0 if before is None else len(before))
            cell.fresh = stable and cls in _WITHOUT_NAN
            cell.value = value if cell.fresh else None
        if not cell.dirty:
            cell.dirty = True
            self.dirty.append(cell)
            self.changed_bytes += len(cell.store_key)

    def delete(self, cell: Cell) -> None:
        """Remove a cell's key."""
        cell.row = None
        cell.value = ABSENT
        cell.fresh = True
        if not cell.dirty:
            cell.dirty = True
            self.dirty.append(cell)
            self.changed_bytes += len(cell.store_key)

    def seal(self) -> SealedRows:
        """Return the changed rows, one per key; the cells stay until `settle` or `drop`."""
        rows = SealedRows()
        codec = self.codec
        for cell in self.dirty:
            rows.store_keys.append(cell.store_key)
            rows.changelog_keys.append(codec.changelog_key(cell.store_key))
            if cell.fresh and cell.value is ABSENT:
                rows.values.append(None)
            elif cell.row is not None:
                rows.values.append(cell.row)
            else:
                cell.row = codec.encode_value(cell.value)
                rows.values.append(cell.row)
        if self.expired.keys:
            self.expired.add_to(rows, codec.changelog_key)
        return rows

    @property
    def is_dirty(self) -> bool:
        """Whether the epoch changes anything, or windows are waiting to be deleted."""
        return bool(self.dirty or self.expired.keys or self.expiry.backlog)

    def settle(self) -> None:
        """Keep the cells, which equal the store's rows from here on, up to a bound."""
        for cell in self.dirty:
            cell.dirty = False
        self.dirty.clear()
        self.changed_bytes = 0
        self.settled_time = self.stream_time
        self.expiry.settle()
        if len(self.by_store_key) > CELLS_KEPT_MAX or self.expired.keys:
            self.cells.clear()
            self.by_store_key.clear()
        self.expired.clear()

    def drop(self) -> None:
        """Forget all cells: the epoch was aborted."""
        self.cells.clear()
        self.by_store_key.clear()
        self.dirty.clear()
        self.changed_bytes = 0
        self.expired.clear()
        self.expiry.drop()
        self.stream_time = self.settled_time

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over (key, value): the store's rows with the epoch's changes over them."""
        key_of = self.codec.key_of
        return ((key_of(store_key), value) for store_key, value in self.rows())

    def rows(self) -> Iterator[tuple[bytes, Any]]:
        """Iterate over (store key, value), as `items`."""
        changed = {cell.store_key: cell for cell in self.dirty}
        codec = self.codec
        for store_key, row in self.store.scan(codec.name):
            if store_key not in changed:
                yield store_key, codec.decode_value(row)
        for store_key, cell in changed.items():
            value = cell.value if cell.fresh else self.read(cell)
            if value is not ABSENT:
                yield store_key, value


def fold(part: TablePartition, key: Any, change: Callable[[Any], Any], default: Any) -> None:
    """Replace the value of ``key`` by ``change(value or default())``."""
    cell = part.cell(key)
    value = cell.value if cell.fresh else part.read(cell)
    if value is ABSENT:
        value = default()
    part.write(cell, change(value))
