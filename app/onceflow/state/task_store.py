"""The store of one task: its tables and their changelog positions, written together.

Decides when local state may be used, and keeps it a prefix of the changelog:

* INV-STATE-1: only ``apply`` and ``replay`` write, the first after Kafka's commit, the second from
  committed changelog records. Nothing uncommitted ever gets here.
* INV-STATE-2: a table's rows and its position are written in one batch over all column families, so
  at every open each table is the fold of its changelog up to the position beside it.

There is no write-ahead log. It would save only the latest applies of a killed worker, which the
changelog holds too and a restore replays. Measured in batches of 10,000 rows of 60 bytes, it adds
0.06 us to the 0.69 us that a row takes, and writes every byte to disk once more. What makes its
absence safe is that all column families are flushed atomically (``atomic_flush``, and
``MemoryBudget.pressure`` for the flushes that we start), so that after a kill the disk holds all
families as of one batch. Rows wait for a flush no longer than STORE_FLUSH_MS, which bounds the
replay.

What cannot be trusted is wiped and rebuilt, with the reason kept in ``rebuild_reasons``, never
silently: the caller reports it.

Not thread-safe: opened, used and closed by the event loop's thread. Imports no Kafka and no Faust.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from rocksdict import WriteBatch

from onceflow.errors import TaskCorrupted, invariant
from onceflow.limits import STORE_FLUSH_MS
from onceflow.state.directory import StoreDirectory
from onceflow.state.metadata import (
    APP_ROW,
    APPLIED_ROW,
    CLUSTER_ROW,
    FLUSHED_ROW,
    as_of_row,
    encode_number,
    position_row,
    topic_row,
)
from onceflow.state.opening import OpenedFiles, open_trusted
from onceflow.state.overlay import Changes
from onceflow.state.reads import TableReads
from onceflow.state.trust import (
    FORMAT_VERSION,
    Reason,
    RebuildReason,
    StoreIdentity,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from onceflow.state.memory import MemoryBudget

__all__ = ["FORMAT_VERSION", "Changes", "Reason", "RebuildReason", "StoreIdentity", "TaskStore"]


class TaskStore(TableReads):
    """The open store of one task; made by ``open``.

    ``rebuild_reasons`` says per table, or under ``"*"`` for the whole store, why rows that were
    here are gone; such tables have no position and must be restored from the changelog's start.
    """

    def __init__(
        self,
        directory: StoreDirectory,
        files: OpenedFiles,
        budget: MemoryBudget,
    ) -> None:
        super().__init__(directory, files.database)
        self.rebuild_reasons: Final[dict[str, RebuildReason]] = dict(files.reasons)
        self._metadata = files.metadata
        self._budget = budget
        self._tables: frozenset[str] = frozenset()
        self._dirty_since_ms: int | None = None
        self._closed = False
        budget.register(self)

    @staticmethod
    def open(
        path: Path,
        identity: StoreIdentity,
        tables: Sequence[str],
        budget: MemoryBudget,
        *,
        now_ms: int,
        trusted_for_ms: int,
    ) -> TaskStore:
        """Open the store at ``path``, empty where what is there cannot be trusted.

        Args:
            path: the task's own directory; made if missing.
            identity: whose state it must be; names the changelog topic id of every table.
            tables: the task's tables. One that is not in the store yet has no position; one that
                is in the store but not named keeps its rows until ``clear_table`` is asked for it.
            budget: memory shared with the other stores of the process.
            now_ms: wall clock.
            trusted_for_ms: half of the changelogs' ``delete.retention.ms``.

        Raises:
            ConfigError: another process has the store open, or the directory is not a store's.
            StorageFailed: the disk cannot be read or written; stop the worker.
        """
        missing = sorted(set(tables) - identity.changelog_topic_ids.keys())
        invariant(
            not missing, "INV-STATE-4: every table's changelog topic id is known", missing=missing
        )
        try:
            return _open_once(path, identity, tables, budget, now_ms, trusted_for_ms)
        except TaskCorrupted:
            # Damage met while clearing a table is noted in the directory, so that the second time
            # the store starts empty, with that reason.
            return _open_once(path, identity, tables, budget, now_ms, trusted_for_ms)

    @staticmethod
    def wipe(path: Path) -> None:
        """Remove the store at ``path`` and its directory.

        Raises:
            ConfigError: it is open, or the directory is not a store's; nothing was removed.
        """
        StoreDirectory(path).remove()

    def changelog_position(self, table: str) -> int | None:
        """The next changelog offset to replay for ``table``; None if it has nothing yet."""
        invariant(
            table in self._families, "INV-STATE-3: a store is asked for its own tables", table=table
        )
        return self._metadata.positions.get(table)

    def check_position(self, table: str, high_watermark: int) -> bool:
        """Whether ``table`` is not ahead of its changelog; if it is, it is cleared.

        A position beyond the end means that the topic lost records (recreated, or an unclean
        election): rows from records that no longer exist must go (INV-STATE-2).
        """
        position = self._metadata.positions.get(table)
        if position is None or position <= high_watermark:
            return True
        self.clear_table(table)
        self.rebuild_reasons[table] = RebuildReason(
            Reason.AHEAD_OF_CHANGELOG,
            f"table {table!r} was at changelog offset {position}, but the changelog ends at "
            f"{high_watermark}: records that it was made of are gone from Kafka",
        )
        return False

    def apply(self, changes: Mapping[str, Changes], *, now_ms: int) -> None:
        """Write what one committed epoch changed, all tables and positions in one atomic batch.

        Call it only after Kafka has committed the epoch, and only when every table of the store is
        restored: it marks all of them as complete at ``now_ms``, also those that did not change. An
        epoch without changes may be applied for that mark alone.

        Raises:
            StorageFailed: the disk takes no writes. Nothing of the batch is in the store; stop.
            TaskCorrupted: RocksDB met damaged files. Close, open again (empty) and restore.
        """
        batch = WriteBatch(raw_mode=True)
        for table, change in changes.items():
            self._stage(batch, table, change)
        restored = self._metadata.as_of_ms.keys() & self._tables
        for table in restored:
            batch.delete(as_of_row(table))
        batch.put(APPLIED_ROW, encode_number(now_ms))
        self._write(batch, changes, now_ms)
        for table in restored:
            del self._metadata.as_of_ms[table]
        self._metadata.applied_ms = now_ms
        self._budget.after_write(now_ms)

    def replay(self, table: str, change: Changes, *, now_ms: int) -> None:
        """Write a piece of ``table``'s changelog with its position, atomically.

        It does not make the table complete, see ``caught_up``. Raises as ``apply``.
        """
        batch = WriteBatch(raw_mode=True)
        self._stage(batch, table, change)
        self._write(batch, {table: change}, now_ms)
        self._budget.after_write(now_ms)

    def caught_up(self, table: str, *, now_ms: int) -> None:
        """Note that ``table`` had all of its changelog at ``now_ms``. Raises as ``apply``."""
        batch = WriteBatch(raw_mode=True)
        batch.put(as_of_row(table), encode_number(now_ms))
        self._write(batch, {}, now_ms)
        self._metadata.as_of_ms[table] = now_ms

    def clear_table(self, table: str) -> None:
        """Delete a table's rows and its position, in one batch. Raises as ``apply``."""
        batch = WriteBatch(raw_mode=True)
        batch.delete(position_row(table))
        last = self.last_key(table)
        if last is not None:
            batch.delete_range(b"", last + b"\x00", self._database.handles[table])
        self._write(batch, {}, None)
        self._metadata.positions.pop(table, None)

    def flush(self) -> None:
        """Start flushing all tables, atomically and in the background, if anything is unflushed."""
        if self._dirty_since_ms is None:
            return
        batch = WriteBatch(raw_mode=True)
        batch.put(FLUSHED_ROW, encode_number(self._dirty_since_ms))
        with self._budget.pressure():
            self._write(batch, {}, None)
        self._dirty_since_ms = None

    def flush_if_old(self, now_ms: int) -> None:
        """``flush`` if a row has been waiting for STORE_FLUSH_MS; the budget calls it.

        A clock that was set back counts as waited enough.
        """
        since_ms = self._dirty_since_ms
        if since_ms is not None and not 0 <= now_ms - since_ms < STORE_FLUSH_MS:
            self.flush()

    def close(self) -> None:
        """Flush, close and give the directory up. Idempotent; scans that still run end here.

        The flush is waited for, because rocksdict's own closing flushes one family after the other:
        a process killed in the middle of it left rows without their position.
        """
        if self._closed:
            return
        self._closed = True
        self._budget.unregister(self)
        try:
            for scan in tuple(self._scans):
                scan.close()
            try:
                self.flush()
                self._database.wait_flushed()
            finally:
                self._database.close()
        finally:
            self._directory.release()

    def begin(self, identity: StoreIdentity, tables: Sequence[str], now_ms: int) -> None:
        """Clear what is not trusted and write whose store it is; the last step of ``open``."""
        for table in self.rebuild_reasons.keys() & self._families.keys():
            self.clear_table(table)
        self._tables = frozenset(tables)
        known = self._metadata
        batch = WriteBatch(raw_mode=True)
        batch.put(APP_ROW, identity.app.encode())
        batch.put(CLUSTER_ROW, identity.cluster_id.encode())
        for table in sorted(self._tables | known.positions.keys()):
            as_of_ms = known.complete_as_of_ms(table) if table in known.positions else None
            known.as_of_ms[table] = now_ms if as_of_ms is None else as_of_ms
            batch.put(as_of_row(table), encode_number(known.as_of_ms[table]))
        for table in tables:
            known.topic_ids[table] = identity.changelog_topic_ids[table]
            batch.put(topic_row(table), known.topic_ids[table].encode())
        self._write(batch, {}, now_ms)
        self._directory.note_opened()

    def _stage(self, batch: WriteBatch, table: str, change: Changes) -> None:
        """Put a table's changes and position into a batch, range deletes first."""
        handle = self._database.handles[table]
        for start, stop in change.deleted_ranges:
            batch.delete_range(start, stop, handle)
        put, delete = batch.put, batch.delete
        for key, value in change.rows:
            if value is None:
                delete(key, handle)
            else:
                put(key, value, handle)
        position = change.position
        if position is not None:
            before = self._metadata.positions.get(table, 0)
            invariant(
                position >= before,
                "INV-STATE-2: a store's changelog position only grows",
                table=table,
                before=before,
                position=position,
            )
            batch.put(position_row(table), encode_number(position))

    def _write(self, batch: WriteBatch, changes: Mapping[str, Changes], now_ms: int | None) -> None:
        """Write a staged batch; only then do the positions count."""
        try:
            self._database.write(batch)
        except TaskCorrupted as error:
            self._directory.note_damage(str(error))
            raise
        for table, change in changes.items():
            if change.position is not None:
                self._metadata.positions[table] = change.position
        if self._dirty_since_ms is None:
            self._dirty_since_ms = now_ms


def _open_once(
    path: Path,
    identity: StoreIdentity,
    tables: Sequence[str],
    budget: MemoryBudget,
    now_ms: int,
    trusted_for_ms: int,
) -> TaskStore:
    with ExitStack() as undo:
        directory = StoreDirectory(path)
        undo.callback(directory.release)
        files = open_trusted(
            directory, identity, tables, budget, now_ms=now_ms, trusted_for_ms=trusted_for_ms
        )
        store = TaskStore(directory, files, budget)
        undo.callback(store.close)
        store.begin(identity, tables, now_ms)
        undo.pop_all()
    return store
