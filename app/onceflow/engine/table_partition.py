"""One partition of one table while an epoch runs: cells over the committed store.

A cell is the uncommitted or cached state of one key. What the agent writes goes into cells; at the
seal every dirty cell becomes one changelog record and one row for the store, however often it was
written; an abort forgets all cells. Mutable values are encoded when they are set, so that an error
has a record to blame and later changes of the object change nothing; plain numbers and booleans
cannot fail and are encoded once, at the seal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

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


class TableCodec(Protocol):
    """How a table's keys and values become bytes; plain and windowed tables differ in keys."""

    name: str

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


def _is_shareable(value: Any) -> bool:
    cls = value.__class__
    return cls is int or cls is float or cls is str or cls is bool or cls is bytes


class SealedRows:
    """What one table partition contributes to an epoch, as parallel columns."""

    __slots__ = ("changelog_keys", "store_keys", "values")

    def __init__(self) -> None:
        self.store_keys: list[bytes] = []
        self.changelog_keys: list[bytes] = []
        self.values: list[bytes | None] = []

    def __len__(self) -> int:
        return len(self.store_keys)


class TablePartition:
    """Cells of one partition of one table, over that task's store."""

    __slots__ = ("cells", "codec", "dirty", "number", "store", "stream_time")

    def __init__(self, codec: TableCodec, number: int, store: TaskStore) -> None:
        self.codec = codec
        self.number = number
        self.store = store
        self.cells: dict[Any, Cell] = {}
        self.dirty: list[Cell] = []
        self.stream_time = float("-inf")

    def cell(self, key: Any) -> Cell:
        """Return the cell of ``key``, reading the store when the epoch has not touched it."""
        index = key if key.__class__ is str else (key.__class__, key)
        cell = self.cells.get(index)
        if cell is None:
            store_key = self.codec.store_key(key)
            cell = Cell(store_key, self.store.get(self.codec.name, store_key))
            self.cells[index] = cell
        return cell

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
        if _is_shareable(value):
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
        if (cls is int and _INT64_MIN <= value < _UINT64_END) or cls is float or cls is bool:
            cell.row = None
            cell.value = value
            cell.fresh = True
        else:
            cell.row = self.codec.encode_value(value)
            cell.fresh = cls is str or cls is bytes
            cell.value = value if cell.fresh else None
        if not cell.dirty:
            cell.dirty = True
            self.dirty.append(cell)

    def delete(self, cell: Cell) -> None:
        """Remove a cell's key."""
        cell.row = None
        cell.value = ABSENT
        cell.fresh = True
        if not cell.dirty:
            cell.dirty = True
            self.dirty.append(cell)

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
        return rows

    def settle(self) -> None:
        """Keep the cells, which equal the store's rows from here on, up to a bound."""
        for cell in self.dirty:
            cell.dirty = False
        self.dirty.clear()
        if len(self.cells) > CELLS_KEPT_MAX:
            self.cells.clear()

    def drop(self) -> None:
        """Forget all cells: the epoch was aborted."""
        self.cells.clear()
        self.dirty.clear()

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Iterate over (key, value): the store's rows with the epoch's changes over them."""
        changed = {cell.store_key: cell for cell in self.dirty}
        codec = self.codec
        for store_key, row in self.store.scan(codec.name):
            if store_key not in changed:
                yield codec.key_of(store_key), codec.decode_value(row)
        for store_key, cell in changed.items():
            value = cell.value if cell.fresh else self.read(cell)
            if value is not ABSENT:
                yield codec.key_of(store_key), value


def fold(part: TablePartition, key: Any, change: Callable[[Any], Any], default: Any) -> None:
    """Replace the value of ``key`` by ``change(value or default())``."""
    cell = part.cell(key)
    value = cell.value if cell.fresh else part.read(cell)
    if value is ABSENT:
        value = default()
    part.write(cell, change(value))
