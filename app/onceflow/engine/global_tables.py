"""GlobalTables: written as any table, readable as a whole on every worker.

A write goes to the changelog partition of the record that causes it, in the record's epoch, and so
belongs to the worker that owns that partition. A read sees, in this order: the partition of the
current record, the other partitions that are open here (both with what the present epoch wrote:
their writes commit or abort together), then the replica of all others. What it sees of others'
partitions is committed state of some moment, never older than this worker's own claim of its
partitions, and never uncommitted. A replay of a record may therefore see newer rows of other
partitions than the aborted attempt did; an agent that must see the same again has to own them (join
by a table that is co-partitioned with its topic).

A key should always be written by records of one partition, as it is when the table's key is the
record's. Where several partitions have the same key, the order above decides, so that workers could
see different values; the first such write is logged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.tables.globaltable import GlobalTable as FaustGlobalTable

from onceflow.engine.table_partition import ABSENT
from onceflow.engine.tables import Table
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faust.types import AppT

    from onceflow.engine.replica import Replica
    from onceflow.engine.table_partition import TablePartition

log = get_logger(__name__)


class GlobalReads(Table):
    """The reading side of tables that every worker sees as a whole.

    Attributes:
        replica: follows the partitions of other workers; set when the worker starts.
    """

    def __init__(self, app: AppT, **options: Any) -> None:
        super().__init__(app, **options)
        self.replica: Replica | None = None
        self._own_codec: Any = None
        self._told_of_conflict = False

    @property
    def shared_codec(self) -> Any:
        """Return the codec for reads that belong to no partition here."""
        if self._own_codec is None:
            self._own_codec = self.codec()
        return self._own_codec

    def lookup(self, key: Any) -> Any:
        """Return the value of ``key`` from wherever it is, or ABSENT."""
        part = self.part_for_read()
        if part is None:
            value = self.committed(key)
        else:
            value = part.value(key)
            if value is ABSENT:
                value = self._beside(part, key)
        return self._of_others(key) if value is ABSENT else value

    def _beside(self, part: TablePartition, key: Any) -> Any:
        """Look into the other partitions that are open here, as the epoch sees them."""
        for other in self.parts.values():
            if other is not part:
                value = other.value(key)
                if value is not ABSENT:
                    return value
        return ABSENT

    def _of_others(self, key: Any) -> Any:
        """Look into the replica of the partitions that are not open here."""
        if self.replica is None:
            return ABSENT
        codec = self.shared_codec
        row = self.replica.get(codec.store_key(key), self.parts)
        return ABSENT if row is None else codec.decode_value(row)

    def _pairs(self) -> Iterator[tuple[Any, Any]]:
        codec = self.shared_codec
        seen: set[bytes] = set()
        for store_key, value in self._rows():
            if store_key not in seen:
                seen.add(store_key)
                yield codec.key_of(store_key), value

    def _rows(self) -> Iterator[tuple[bytes, Any]]:
        """Iterate over (store key, value) in the order in which reads look."""
        part = self.part_for_read()
        own = list(self.parts.values())
        if part is None:
            for each in own:
                for store_key, row in each.store.scan(self.name):
                    yield store_key, each.codec.decode_value(row)
        else:
            for each in sorted(own, key=lambda one: one is not part):
                yield from each.rows()
        if self.replica is not None:
            decode = self.shared_codec.decode_value
            for store_key, row in self.replica.scan(self.parts):
                yield store_key, decode(row)

    def __setitem__(self, key: Any, value: Any) -> None:
        part = self.part_for_write()
        cell = part.cell(key)
        if not self._told_of_conflict and cell.fresh and cell.value is ABSENT:
            self._watch_for_conflict(part, key)
        part.write(cell, value)

    def _watch_for_conflict(self, part: TablePartition, key: Any) -> None:
        """Say once that a key is being written by records of several partitions."""
        if self._beside(part, key) is ABSENT and self._of_others(key) is ABSENT:
            return
        self._told_of_conflict = True
        log.warning(
            LogEvent.GLOBAL_TABLE_CONFLICT,
            table=self.name,
            key=repr(key),
            partition=part.number,
            meaning="the key is in another partition too, so that workers may see different "
            "values; send all records that write one key with the same record key",
        )


class GlobalTable(FaustGlobalTable, GlobalReads):
    """A Faust GlobalTable whose writes belong to epochs."""
