"""The durable log of a replica: what the engine reads, from memory; what it writes, to disk.

Two halves that two threads use. ``persist`` makes requests durable and touches no memory that the
engine reads: it runs in the writer's thread. ``taken`` puts requests that are durable into that
memory: it runs where the engine runs, before the engine is told. Entries are kept in memory from
the first to the last; compaction bounds them.

Order of writes when a snapshot is installed: hard state, snapshot file, then one batch that drops
the log. After a crash in between, either the old log or the snapshot is complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from onceflow_consensus.errors import StorageCorrupt
from onceflow_consensus.limits import SEGMENT_BYTES
from onceflow_consensus.raft.messages import (
    EMPTY_HARD_STATE,
    Entry,
    EntryId,
    HardState,
    LogIndex,
    RaftSnapshot,
)
from onceflow_consensus.raft.stable import HeldEntries
from onceflow_consensus.storage.log_files import LogFiles
from onceflow_consensus.storage.records import Base, BaseKind, Record
from onceflow_consensus.storage.segments import REJOIN
from onceflow_consensus.storage.snapshots import SnapshotStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from onceflow_consensus.raft.configuration import Configuration
    from onceflow_consensus.storage.disk import Disk

_UNBOUNDED = 2**63


class WriteRequest(msgspec.Struct, frozen=True, gc=False):
    """What is to become durable, together.

    entries, hard_state, raft_snapshot: of a ``Ready`` or a storage message. own_snapshot: of this
    replica's state machine; it replaces nothing. compacted: entries up to it may be dropped.
    """

    entries: tuple[Entry, ...] = ()
    hard_state: HardState | None = None
    raft_snapshot: RaftSnapshot | None = None
    own_snapshot: RaftSnapshot | None = None
    compacted: Base | None = None


class DurableLog(HeldEntries):
    """A ``StableLog`` on disk."""

    def __init__(self, disk: Disk, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Recover what the disk holds; an empty disk gives an empty log.

        Raises:
            StorageCorrupt, StorageUnknown, StorageFailed: do not start; see there.
        """
        self._snapshots = SnapshotStore(disk)
        has_log = any(name.startswith("log-") for name in disk.names())
        self._files = LogFiles(disk, segment_bytes)
        content = self._files.take_content()
        held = content.held
        super().__init__(held.base)
        self.put(held.entries(held.first_index, held.last_index + 1, _UNBOUNDED))
        self.newest_snapshot = self._newest_snapshot(has_log=has_log)
        self.hard_state = content.hard_state
        self._durable_commit_index = content.hard_state.commit_index
        self._finish_install()
        self._check_whole()

    @property
    def torn_bytes(self) -> int:
        """Return how many bytes of an unacknowledged tail were cut off at the start."""
        return self._files.torn_bytes

    def initial_state(self) -> tuple[HardState, Configuration]:
        """See ``StableLog``; the members are those of the newest snapshot."""
        return self.hard_state, self.newest_snapshot.configuration

    def latest_snapshot(self) -> RaftSnapshot | None:
        """See ``StableLog``."""
        return self.newest_snapshot if self.newest_snapshot.index else None

    def compaction_to(self, index: LogIndex) -> WriteRequest:
        """Return the request that drops the entries up to ``index``.

        Nothing above the newest snapshot is dropped: a restart needs what follows it.
        """
        index = min(index, self.newest_snapshot.index, self.last_index)
        term = self.term_at(index)
        if term is None or index < self.first_index:
            return WriteRequest()
        return WriteRequest(compacted=Base(index, term))

    def persist(self, requests: Sequence[WriteRequest]) -> None:
        """Make requests durable, in order, with as few syncs as possible.

        Raises:
            StorageFailed: the disk failed. Stop the replica; nothing of these may be promised.
        """
        together: list[WriteRequest] = []
        for request in requests:
            if request.raft_snapshot is not None:
                self._write(together)
                together = []
                self._install(request, request.raft_snapshot)
            else:
                together.append(request)
        self._write(together)

    def taken(self, request: WriteRequest) -> None:
        """Put a request that is durable into memory, in the order in which they were persisted."""
        received = request.raft_snapshot
        if received is not None and received.index > self.newest_snapshot.index:
            self.newest_snapshot = received
            self.begin_at(EntryId(received.term, received.index))
        self.put(request.entries)
        self.hard_state = request.hard_state or self.hard_state
        own = request.own_snapshot
        if own is not None and own.index > self.newest_snapshot.index:
            self.newest_snapshot = own
        if request.compacted is not None:
            self.drop_to(EntryId(request.compacted.term, request.compacted.index))

    def close(self) -> None:
        """Mark the log as closed in order. Call it when nothing is being written.

        Raises:
            StorageFailed: the disk failed; the next start recovers as after a crash.
        """
        self._files.close()

    def _write(self, requests: Iterable[WriteRequest]) -> None:
        records: list[Record] = []
        hard_state: HardState | None = None
        dropped: Base | None = None
        for request in requests:
            if request.own_snapshot is not None:
                self._snapshots.save(request.own_snapshot)
            records.extend(request.entries)
            hard_state = request.hard_state or hard_state
            dropped = request.compacted or dropped
        if hard_state is not None:
            records.append(hard_state)
            self._durable_commit_index = hard_state.commit_index
        if dropped is not None:
            records.append(dropped)
        if records:
            self._files.write(records)
        if dropped is not None:
            self._files.drop_segments(dropped)

    def _install(self, request: WriteRequest, received: RaftSnapshot) -> None:
        hard_state = request.hard_state
        if hard_state is not None:
            # Term and vote first; the commit index as it was. That of the snapshot lies beyond this
            # log, or in a part of it that was never committed and that the snapshot replaces.
            commit_index = self._durable_commit_index
            self._files.write((replace(hard_state, commit_index=commit_index),))
        self._snapshots.save(received)
        base = Base(received.index, received.term, BaseKind.RESET)
        state = () if hard_state is None else (hard_state,)
        self._files.write((base, *request.entries, *state))
        self._durable_commit_index = received.index
        self._files.drop_segments(base)

    def _newest_snapshot(self, *, has_log: bool) -> RaftSnapshot:
        positions = self._snapshots.positions()
        if not positions:
            return RaftSnapshot()
        if not has_log:
            raise StorageCorrupt(f"there are snapshots and no log. {REJOIN}")
        return self._snapshots.load(*positions[0])

    def _finish_install(self) -> None:
        """Drop a log that a crash kept although a snapshot was to replace it."""
        newest = self.newest_snapshot
        if newest.index <= self.base.index or self.term_at(newest.index) == newest.term:
            return
        base = Base(newest.index, newest.term, BaseKind.RESET)
        state = replace(self.hard_state, commit_index=newest.index)
        self._files.write((base, state))
        self._durable_commit_index = newest.index
        self.begin_at(EntryId(newest.term, newest.index))
        self.hard_state = state

    def _check_whole(self) -> None:
        if self.newest_snapshot.index < self.base.index:
            raise StorageCorrupt(
                f"the log begins after {self.base.index} and the newest snapshot is of "
                f"{self.newest_snapshot.index}: what lies between is missing. {REJOIN}"
            )
        if self.hard_state != EMPTY_HARD_STATE and self.hard_state.commit_index > self.last_index:
            raise StorageCorrupt(
                f"entries up to {self.hard_state.commit_index} were committed and the log ends "
                f"at {self.last_index}. {REJOIN}"
            )
