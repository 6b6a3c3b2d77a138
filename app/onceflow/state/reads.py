"""Reads of one task's committed tables.

rocksdict's ``items()`` and ``keys()`` end without an error when they meet a damaged block (seen
with 0.3.29), so a scan would silently miss the rest. Every scan therefore ends with a look at the
status of a cursor placed on its last key. Reads take no part in an epoch: see ``overlay``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast
from weakref import WeakSet

from rocksdict import ReadOptions

from onceflow.errors import TaskCorrupted
from onceflow.state.storage_errors import translate

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from rocksdict import Rdict, RdictIter

    from onceflow.state.database import Database
    from onceflow.state.directory import StoreDirectory


class TableSizes(NamedTuple):
    """How much a table holds: bytes on disk, bytes in memtables, RocksDB's estimate of keys.

    ``pending_compaction_bytes`` are still to be rewritten; ``background_errors`` are flushes and
    compactions that failed since the store was opened.
    """

    sst_bytes: int
    memtable_bytes: int
    estimated_keys: int
    pending_compaction_bytes: int
    background_errors: int


class TableReads:
    """Reads over the tables of an open store; all keys and values are bytes.

    Each read raises:
        TaskCorrupted: a block is damaged. Close the store and open it again: it then starts empty,
            with the reason told, and is restored.
        StorageFailed: the disk does not answer. Stop the worker.
    """

    def __init__(self, directory: StoreDirectory, database: Database) -> None:
        self._directory = directory
        self._database = database
        self._families = database.families
        self._scans: WeakSet[Generator[object, None, None]] = WeakSet()

    def get(self, table: str, key: bytes) -> bytes | None:
        """The committed value of ``key``."""
        try:
            value: bytes | None = self._families[table].get(key)
        except Exception as error:
            raise self._explain(error) from error
        return value

    def get_many(self, table: str, keys: list[bytes]) -> list[bytes | None]:
        """The committed values in the order of ``keys``; cheaper per key than ``get``."""
        wanted = cast("list[str | int | float | bytes | bool]", keys)
        try:
            return cast("list[bytes | None]", self._families[table].get(wanted))
        except Exception as error:
            raise self._explain(error) from error

    def scan(
        self, table: str, start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with ``start <= key < stop`` in key order, as they were at the first step.

        Applies made meanwhile are not seen. The iterator ends with the store.
        """
        scan = self._scan(self._families[table], start, stop)
        self._scans.add(scan)
        return scan

    def scan_keys(
        self, table: str, start: bytes | None = None, stop: bytes | None = None
    ) -> Iterator[bytes]:
        """The keys of ``scan``, at half its price."""
        scan = self._scan_keys(self._families[table], start, stop)
        self._scans.add(scan)
        return scan

    def first_key(self, table: str) -> bytes | None:
        """The lowest key, None in an empty table."""
        try:
            return _first_key_of(self._families[table])
        except Exception as error:
            raise self._explain(error) from error

    def last_key(self, table: str) -> bytes | None:
        """The highest key, None in an empty table."""
        try:
            return _last_key_of(self._families[table])
        except Exception as error:
            raise self._explain(error) from error

    def sizes(self) -> dict[str, TableSizes]:
        """Sizes per table."""
        try:
            return {table: _sizes(family) for table, family in self._families.items()}
        except Exception as error:
            raise self._explain(error) from error

    def _scan(
        self, family: Rdict, start: bytes | None, stop: bytes | None
    ) -> Generator[tuple[bytes, bytes], None, None]:
        last = start
        try:
            rows = family.items(from_key=start, read_opt=_until(stop))
            for row in cast("Iterator[tuple[bytes, bytes]]", rows):
                last = row[0]
                yield row
            _check_end(family, last, stop)
        except Exception as error:
            raise self._explain(error) from error

    def _scan_keys(
        self, family: Rdict, start: bytes | None, stop: bytes | None
    ) -> Generator[bytes, None, None]:
        last = start
        try:
            keys = family.keys(from_key=start, read_opt=_until(stop))
            for last in cast("Iterator[bytes]", keys):
                yield last
            _check_end(family, last, stop)
        except Exception as error:
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> Exception:
        """Our error for rocksdict's; damage is noted in the directory, for the next open."""
        explained = translate(error, self._database.path)
        if isinstance(explained, TaskCorrupted):
            self._directory.note_damage(str(explained))
        return explained


def _until(stop: bytes | None) -> ReadOptions:
    options = ReadOptions()
    if stop is not None:
        options.set_iterate_upper_bound(stop)
    return options


def _check_end(family: Rdict, last: bytes | None, stop: bytes | None) -> None:
    """Raise what ended a scan early, if anything did: step over its last key, ask for a status."""
    cursor = family.iter(_until(stop))
    if last is None:
        cursor.seek_to_first()
    else:
        cursor.seek(last)
        if cursor.valid():
            cursor.next()
    cursor.status()


def _first_key_of(family: Rdict) -> bytes | None:
    cursor = family.iter()
    cursor.seek_to_first()
    return _key_under(cursor)


def _last_key_of(family: Rdict) -> bytes | None:
    cursor = family.iter()
    cursor.seek_to_last()
    return _key_under(cursor)


def _key_under(cursor: RdictIter) -> bytes | None:
    if cursor.valid():
        return cast("bytes", cursor.key())
    cursor.status()
    return None


def _sizes(family: Rdict) -> TableSizes:
    def number(name: str) -> int:
        return family.property_int_value(f"rocksdb.{name}") or 0

    return TableSizes(
        sst_bytes=number("total-sst-files-size"),
        memtable_bytes=number("cur-size-all-mem-tables"),
        estimated_keys=number("estimate-num-keys"),
        pending_compaction_bytes=number("estimate-pending-compaction-bytes"),
        background_errors=number("background-errors"),
    )
