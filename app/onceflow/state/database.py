"""One RocksDB with a column family per table: opening, handles, writes and closing.

The metadata is in the ``default`` family; a table's family carries a prefix, so that a table may be
called ``default`` too. All writes go without write-ahead log, see ``task_store``. RocksDB gives its
lock back only when the last handle, iterator and family object is gone, so ``close`` drops all of
them, and whoever iterates must end with the store.
"""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar, cast

from rocksdict import Rdict, WriteOptions

from onceflow.errors import InvariantViolation
from onceflow.limits import STORE_CLOSE_S_MAX
from onceflow.state.storage_errors import translate

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from rocksdict import ColumnFamily, WriteBatch

    from onceflow.state.memory import MemoryBudget

_METADATA_FAMILY = "default"
_TABLE_PREFIX = "table."
_FLUSH_STEP_S = 0.001
"""Between looks at a flush; a small one takes some milliseconds."""

_Value = TypeVar("_Value")


class _ByTable(dict[str, _Value]):
    """A dictionary that tells a table which is not open here from a mere missing key."""

    def __missing__(self, table: str) -> NoReturn:
        raise InvariantViolation(
            "INV-STATE-3: a store is asked only for its own tables, and only while it is open: "
            f"{table!r} is none of {sorted(self)}"
        )


class Database:
    """An open RocksDB.

    Raises:
        ConfigError, StorageFailed, TaskCorrupted: as ``storage_errors.translate`` says.
    """

    def __init__(self, path: Path, tables: Iterable[str], budget: MemoryBudget) -> None:
        self.path: Final = path
        self.families: Final[_ByTable[Rdict]] = _ByTable()
        self.handles: Final[_ByTable[ColumnFamily]] = _ByTable()
        self._write_options: Final = WriteOptions()
        # rocksdict's stub calls it a method; it is a property.
        cast("Any", self._write_options).disable_wal = True
        wanted = {_TABLE_PREFIX + table for table in tables}
        try:
            present = _families_in(path)
            self._rdict: Final = _open(path, {_METADATA_FAMILY, *present, *wanted}, budget)
        except Exception as error:
            raise translate(error, path) from error
        self.created_tables: Final = {_table_of(name) for name in wanted - present}
        for name in (present | wanted) - {_METADATA_FAMILY}:
            table = _table_of(name)
            self.families[table] = self._rdict.get_column_family(name)
            self.handles[table] = self._rdict.get_column_family_handle(name)

    def metadata_rows(self) -> list[tuple[bytes, bytes]]:
        """All rows of the metadata family."""
        try:
            return _rows_of(self._rdict)
        except Exception as error:
            raise translate(error, self.path) from error

    def write(self, batch: WriteBatch) -> None:
        """Write a batch over all families, all or nothing. Holds the interpreter meanwhile."""
        try:
            self._rdict.write(batch, self._write_options)
        except Exception as error:
            raise translate(error, self.path) from error

    def wait_flushed(self) -> None:
        """Wait until a flush that was started has written all tables, for STORE_CLOSE_S_MAX."""
        until_s = monotonic() + STORE_CLOSE_S_MAX
        while self._is_unflushed() and monotonic() < until_s:
            sleep(_FLUSH_STEP_S)

    def _is_unflushed(self) -> bool:
        # The write that started the flush is itself in the metadata's next memtable.
        waiting = [_number(self._rdict, "num-immutable-mem-table")]
        for family in self.families.values():
            waiting.append(_number(family, "num-immutable-mem-table"))
            waiting.append(_number(family, "num-entries-active-mem-table"))
        return any(waiting)

    def close(self) -> None:
        """Close; what is not flushed is flushed family by family. Idempotent."""
        self.handles.clear()
        for family in self.families.values():
            family.close()
        self.families.clear()
        try:
            self._rdict.close()
        except Exception as error:
            raise translate(error, self.path) from error


def _number(family: Rdict, name: str) -> int:
    return family.property_int_value(f"rocksdb.{name}") or 0


def _families_in(path: Path) -> set[str]:
    """Names of the families on disk: all must be opened, RocksDB refuses to leave one closed."""
    return set(Rdict.list_cf(str(path))) if (path / "CURRENT").exists() else set()


def _open(path: Path, names: Iterable[str], budget: MemoryBudget) -> Rdict:
    families = {name: budget.options() for name in sorted(names)}
    return Rdict(str(path), budget.options(), column_families=families)


def _rows_of(family: Rdict) -> list[tuple[bytes, bytes]]:
    rows: list[tuple[bytes, bytes]] = []
    cursor = family.iter()
    cursor.seek_to_first()
    while cursor.valid():
        rows.append((cast("bytes", cursor.key()), cast("bytes", cursor.value())))
        cursor.next()
    cursor.status()
    return rows


def _table_of(family_name: str) -> str:
    return family_name.removeprefix(_TABLE_PREFIX)
