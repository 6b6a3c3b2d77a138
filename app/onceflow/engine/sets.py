"""Set tables: Faust's API and changelog of operations, over rows of members.

A set is a view: it holds no members, each operation looks at the epoch's cells and the store. A
member is a cell, so that aborts, seals and restores are those of every table; only the changelog
differs, which is Faust's log of operations (add and discard of one member each), and must never be
compacted or cut off.

Members are told apart by their encoded bytes. Faust tells them apart as Python does, where
``1 == 1.0 == True``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, MutableSet
from typing import TYPE_CHECKING, Any, NoReturn, cast

from faust.tables import sets as faust_sets

from onceflow.engine.codecs import is_json
from onceflow.engine.global_tables import GlobalReads
from onceflow.engine.table_partition import ABSENT, SealedRows, TablePartition
from onceflow.engine.tables import PlainCodec, Table
from onceflow.engine.windowing import WindowSet, WindowWrapper
from onceflow.errors import ConfigError
from onceflow.state.keys import split_window_key, window_bounds
from onceflow.state.restore import KeyLayout
from onceflow.state.set_rows import (
    ADD,
    DISCARD,
    PRESENT,
    after_prefix,
    operation_key,
    set_prefix,
    split_row,
)

if TYPE_CHECKING:
    from faust.types import AppT, TopicT

    from onceflow.engine.table_partition import Cell


class SetCodec:
    """Keys of a set table's rows: (key of the set, member), or ((key, window), member)."""

    # Never looked up by the key itself: members that are equal may be different bytes.
    windowed = False
    stable = frozenset({bool})

    def __init__(self, plain: PlainCodec, *, is_windowed: bool) -> None:
        self.name = plain.name
        self.is_windowed = is_windowed
        self._plain = plain

    def prefix(self, key: Any) -> bytes:
        """Return what the rows of a set begin with."""
        if not self.is_windowed:
            return set_prefix(self._plain.store_key(key))
        inner, (start_s, end_s) = key
        return set_prefix(self._plain.store_key(inner), window_bounds(start_s, end_s))

    def store_key(self, key: Any) -> bytes:
        """Return the key of a member's row."""
        of_set, member = key
        return self.prefix(of_set) + self._plain.encode_value(member)

    def changelog_key(self, store_key: bytes) -> bytes:
        """Return Faust's key of adding the member."""
        return self.operation(ADD, store_key)[0]

    def operation(self, operation: int, store_key: bytes) -> tuple[bytes, bytes]:
        """Return Faust's changelog record of an operation on the member."""
        bounds, inner, member = split_row(store_key, windowed=self.is_windowed)
        return operation_key(operation, bounds, inner), member

    def key_of(self, store_key: bytes) -> Any:
        """Return (key of the set, member)."""
        bounds, inner, member = split_row(store_key, windowed=self.is_windowed)
        key = self._plain.key_of(inner)
        if bounds:
            parts = split_window_key(bounds)
            key = key, (parts.start_s, parts.end_s)
        return key, self._plain.decode_value(member)

    def encode_value(self, value: Any) -> bytes:
        """Return the row of a member, which is empty."""
        del value
        return PRESENT

    def decode_value(self, row: bytes) -> Any:
        """Return True: the member is there."""
        del row
        return True


class SetPartition(TablePartition):
    """A table partition whose changelog is a log of set operations."""

    __slots__ = ()

    def seal(self) -> SealedRows:
        """Return the changed members, an operation each."""
        rows = SealedRows()
        codec = cast("SetCodec", self.codec)
        rows.changelog_values = []
        for cell in self.dirty:
            self._add(rows, cell.store_key, ABSENT if cell.value is ABSENT else True, codec)
        for store_key in self.expired.keys:
            self._add(rows, store_key, ABSENT, codec)
        return rows

    @staticmethod
    def _add(rows: SealedRows, store_key: bytes, value: Any, codec: SetCodec) -> None:
        present = value is not ABSENT
        key, member = codec.operation(ADD if present else DISCARD, store_key)
        rows.store_keys.append(store_key)
        rows.values.append(PRESENT if present else None)
        rows.changelog_keys.append(key)
        cast("list[bytes | None]", rows.changelog_values).append(member)

    def members(self, prefix: bytes) -> Iterator[bytes]:
        """Iterate over the row keys of a set, as the epoch sees them."""
        changed = {c.store_key: c for c in self.dirty if c.store_key.startswith(prefix)}
        for store_key, _ in self.store.scan(self.codec.name, prefix, after_prefix(prefix)):
            if store_key not in changed:
                yield store_key
        for store_key, cell in changed.items():
            if cell.value is not ABSENT:
                yield store_key


class TableSet(MutableSet[Any]):
    """One set of a set table. Operators give ordinary sets; changes belong to the epoch."""

    __slots__ = ("_key", "_table")

    def __init__(self, table: _SetTable, key: Any) -> None:
        self._table = table
        self._key = key

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> Any:
        return set(it)

    def __contains__(self, member: object) -> bool:
        return self._table.lookup((self._key, member)) is not ABSENT

    def __iter__(self) -> Iterator[Any]:
        return iter(self._table.members(self._key))

    def __len__(self) -> int:
        return len(self._table.members(self._key))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key!r}: {set(self)!r}>"

    def _cell(self, member: Any) -> tuple[TablePartition, Cell]:
        part = self._table.part_for_write()
        return part, part.cell((self._key, member))

    def add(self, value: Any) -> None:
        """Add a member."""
        part, cell = self._cell(value)
        if cell.fresh and cell.value is ABSENT:
            part.write(cell, True)

    def discard(self, value: Any) -> None:
        """Remove a member if it is there."""
        part, cell = self._cell(value)
        if not (cell.fresh and cell.value is ABSENT):
            part.delete(cell)

    def update(self, *others: Iterable[Any]) -> None:
        """Add all members of ``others``."""
        for other in others:
            for member in list(other):
                self.add(member)

    def difference_update(self, *others: Iterable[Any]) -> None:
        """Remove all members of ``others``."""
        for other in others:
            for member in list(other):
                self.discard(member)

    def intersection_update(self, *others: Iterable[Any]) -> None:
        """Keep only members that are in all ``others``."""
        for member in set(self) - set(self).intersection(*others):
            self.discard(member)

    def symmetric_difference_update(self, other: Iterable[Any]) -> None:
        """Keep the members that are in one of both only."""
        wanted = set(self).symmetric_difference(other)
        self.difference_update(set(self) - wanted)
        self.update(wanted)

    def union(self, *others: Iterable[Any]) -> set[Any]:
        """Return a set of the members of both."""
        return set(self).union(*others)

    def intersection(self, *others: Iterable[Any]) -> set[Any]:
        """Return a set of the common members."""
        return set(self).intersection(*others)

    def difference(self, *others: Iterable[Any]) -> set[Any]:
        """Return a set of the members that no other has."""
        return set(self).difference(*others)

    def symmetric_difference(self, other: Iterable[Any]) -> set[Any]:
        """Return a set of the members that one of both has."""
        return set(self).symmetric_difference(other)

    def issubset(self, other: Iterable[Any]) -> bool:
        """Return whether ``other`` has all members."""
        return set(self).issubset(other)

    def issuperset(self, other: Iterable[Any]) -> bool:
        """Return whether all members of ``other`` are here."""
        return set(self).issuperset(other)

    def copy(self) -> set[Any]:
        """Return the members as an ordinary set."""
        return set(self)


class SetWindowSet(WindowSet, faust_sets.SetWindowSet):
    """The sets of one key in the windows of the current record."""

    def _apply_set_operation(self, op: str, element: Any, event: Any = None) -> None:
        wrapper: Any = self.wrapper
        table: Any = self.table
        part = table.part_for_write()
        timestamp = wrapper.get_timestamp(event or self.event)
        wrapper.on_set_key(self.key, element)
        for window_range in wrapper.ranges(timestamp):
            getattr(table[(self.key, window_range)], op)(element)
        part.stream_time = max(part.stream_time, timestamp)


class SetWindowWrapper(WindowWrapper):
    """A windowed set table."""

    ValueType = SetWindowSet


class _SetTable(Table):
    """What set tables and global set tables have in common."""

    WindowWrapper = SetWindowWrapper

    def __init__(self, app: AppT, **options: Any) -> None:
        if options.get("on_window_close") is not None:
            raise ConfigError(
                f"Set table {options.get('name')}: on_window_close is not called for sets, whose "
                "members expire one by one. Nothing was consumed. Use a Table of lists, or leave "
                "on_window_close out."
            )
        super().__init__(app, **options)
        if not is_json(self.key_serializer) or not is_json(self.value_serializer):
            raise ConfigError(
                f"Set table {self.name}: the changelog's keys [operation, key] and its members are "
                "JSON, and the serializers here are others. Nothing was consumed. Use key and "
                "value types that are encoded as JSON."
            )

    @property
    def layout(self) -> KeyLayout:
        """How store keys come from changelog keys."""
        return KeyLayout.SETS if self.window is None else KeyLayout.WINDOWED_SETS

    def codec(self) -> Any:
        """Return how sets and members become bytes."""
        return SetCodec(PlainCodec(self), is_windowed=self.window is not None)

    def new_part(self, number: int, store: Any) -> TablePartition:
        """Make a partition."""
        return SetPartition(self.codec(), number, store)

    def _new_changelog_topic(self, **options: Any) -> TopicT:
        """Describe the changelog: every operation counts, so it is kept whole."""
        del options
        kept = {"retention.ms": "-1", "retention.bytes": "-1"}
        return self._changelog_like(kept, compacting=False, deleting=True)

    def members(self, key: Any) -> list[Any]:
        """Return the members of a set as this moment sees it."""
        codec = self.codec()
        return [codec.key_of(row)[1] for row in self._member_rows(codec.prefix(key))]

    def _member_rows(self, prefix: bytes) -> Iterable[bytes]:
        part = self.part_for_read()
        if part is not None:
            return cast("SetPartition", part).members(prefix)
        return [
            row
            for each in self.parts.values()
            for row in each.store.scan_keys(self.name, prefix, after_prefix(prefix))
        ]

    # -- the mapping: sets by key --

    def __getitem__(self, key: Any) -> TableSet:
        return TableSet(self, key)

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the set of ``key`` if it has members, else ``default``."""
        return TableSet(self, key) if key in self else default

    def __contains__(self, key: object) -> bool:
        return any(True for _ in self._member_rows(self.codec().prefix(key)))

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        seen: set[Any] = set()
        for (key, _), _ in super()._pairs():
            if key not in seen:
                seen.add(key)
                yield key, TableSet(self, key)

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        del value
        self._refuse(f"table[{key!r}] = ...")

    def __delitem__(self, key: Any) -> NoReturn:
        self._refuse(f"del table[{key!r}]")

    def pop(self, key: Any, *default: Any) -> NoReturn:
        """Refuse: a set is emptied, not removed."""
        del default
        self._refuse(f"table.pop({key!r})")

    def _refuse(self, operation: str) -> NoReturn:
        raise NotImplementedError(
            f"Set table {self.name}: {operation} is not possible, as in Faust. Nothing was "
            "written. Change the set itself: table[key].add(member), .discard(member), .clear()."
        )

    def clear(self) -> None:
        """Empty every set of the current record's partition."""
        part = self.part_for_write()
        for key, _ in list(part.items()):
            part.delete(part.cell(key))


class SetTable(_SetTable, faust_sets.SetTable):  # pyright: ignore[reportIncompatibleVariableOverride]
    """A Faust SetTable whose operations belong to epochs."""


class SetGlobalTable(  # pyright: ignore[reportIncompatibleVariableOverride]
    _SetTable, GlobalReads, faust_sets.SetGlobalTable
):
    """A set table that every worker reads as a whole: a set is the union over all partitions."""

    def _member_rows(self, prefix: bytes) -> Iterable[bytes]:
        rows: dict[bytes, None] = {}
        part = self.part_for_read()
        stop = after_prefix(prefix)
        for each in self.parts.values():
            if part is None:
                rows.update(dict.fromkeys(each.store.scan_keys(self.name, prefix, stop)))
            else:
                rows.update(dict.fromkeys(cast("SetPartition", each).members(prefix)))
        if self.replica is not None:
            rows.update(dict.fromkeys(self.replica.scan_keys(prefix, stop, self.parts)))
        return rows
