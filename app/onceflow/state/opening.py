"""Opening a store's files, or starting empty where they cannot be read or trusted.

Each way of starting empty yields its reason. Files are removed only under the directory's lock, and
only after RocksDB has let go of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from onceflow.errors import TaskCorrupted
from onceflow.state.database import Database
from onceflow.state.metadata import read_metadata
from onceflow.state.trust import WHOLE_STORE, Reason, RebuildReason, StoreMetadata, distrust

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onceflow.state.directory import StoreDirectory
    from onceflow.state.memory import MemoryBudget
    from onceflow.state.trust import StoreIdentity


class OpenedFiles(NamedTuple):
    """An open database, what it says of itself, and which tables of it must be cleared."""

    database: Database
    metadata: StoreMetadata
    reasons: dict[str, RebuildReason]


def open_trusted(
    directory: StoreDirectory,
    identity: StoreIdentity,
    tables: Sequence[str],
    budget: MemoryBudget,
    *,
    now_ms: int,
    trusted_for_ms: int,
) -> OpenedFiles:
    """Open what is there; a store that is distrusted as a whole is replaced by an empty one.

    Raises:
        ConfigError: RocksDB finds the store open elsewhere.
        StorageFailed: the disk cannot be read or written; stop the worker.
    """
    reason = directory.distrust()
    if reason is None:
        try:
            database, metadata = _open_files(directory, tables, budget)
        except TaskCorrupted as error:
            reason = RebuildReason(Reason.CORRUPT, str(error))
        else:
            reasons = distrust(
                metadata, identity, tables, now_ms=now_ms, trusted_for_ms=trusted_for_ms
            )
            if WHOLE_STORE not in reasons:
                return OpenedFiles(database, metadata, reasons)
            reason = reasons[WHOLE_STORE]
            database.close()
    directory.empty()
    database = Database(directory.path, tables, budget)
    return OpenedFiles(database, StoreMetadata(), {WHOLE_STORE: reason})


def _open_files(
    directory: StoreDirectory, tables: Sequence[str], budget: MemoryBudget
) -> tuple[Database, StoreMetadata]:
    database = Database(directory.path, tables, budget)
    try:
        metadata = read_metadata(database.metadata_rows())
        _check_families(metadata, database)
    except TaskCorrupted:
        database.close()
        raise
    return database, metadata


def _check_families(metadata: StoreMetadata, database: Database) -> None:
    """A position without the rows it stands for would lose them for good."""
    lost = sorted(metadata.positions.keys() & database.created_tables)
    if lost:
        raise TaskCorrupted(
            f"The store {database.path} has changelog positions of {lost} but not their rows. "
            "It must be wiped and restored from the changelog."
        )
