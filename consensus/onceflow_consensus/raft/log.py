"""The replica's log: the stable part and the unstable tail as one sequence.

The commit index lives here, because its rule is the log's: it never goes back and never exceeds
what is stored. Which entries a leader may count as committed is decided in ``replication``.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import (
    Entry,
    EntryId,
    LogIndex,
    RaftSnapshot,
    Term,
    encoded_bytes,
    limit_bytes,
)
from onceflow_consensus.raft.unstable import UnstableLog

if TYPE_CHECKING:
    from onceflow_consensus.raft.stable import StableLog


class RaftLog:
    """Entries from ``first_index`` to ``last_index``, and how far they are committed.

    commit_index: the highest index known to be committed. Raised by the leader's count of
        acknowledgements, by what a leader tells its followers, and by a snapshot.
        Invariant: never lowered, at most ``last_index``.
    """

    __slots__ = ("commit_index", "stable", "unstable")

    def __init__(self, stable: StableLog) -> None:
        self.stable = stable
        self.unstable = UnstableLog(stable.last_index + 1)
        self.commit_index: LogIndex = stable.first_index - 1

    @property
    def first_index(self) -> LogIndex:
        """Return the lowest index whose entry can be read."""
        received = self.unstable.raft_snapshot
        return received.index + 1 if received is not None else self.stable.first_index

    @property
    def last_index(self) -> LogIndex:
        """Return the highest index, durable or not."""
        unstable_last = self.unstable.last_index()
        return self.stable.last_index if unstable_last is None else unstable_last

    @property
    def last_id(self) -> EntryId:
        """Return term and index of the last entry; both zero for a log that never held one."""
        index = self.last_index
        term = self.term_at(index)
        invariant(term is not None, "INV-RAFT-12: the last entry's term is known", index=index)
        return EntryId(term or 0, index)

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term at ``index``, None where it is compacted or not there yet."""
        unstable = self.unstable
        term = unstable.term_at(index)
        # The stable part counts only below the tail, and not at all once a snapshot replaces it.
        if term is not None or index >= unstable.offset or unstable.raft_snapshot is not None:
            return term
        return self.stable.term_at(index)

    def matches(self, entry_id: EntryId) -> bool:
        """Whether the log holds exactly that entry; then it agrees with the other log up to it."""
        return self.term_at(entry_id.index) == entry_id.term

    def entries_from(self, index: LogIndex, max_bytes: int) -> tuple[Entry, ...]:
        """Return the entries from ``index`` on, within ``max_bytes`` but at least one if any."""
        unstable = self.unstable
        if index >= unstable.offset:
            return limit_bytes(tuple(unstable.entries[index - unstable.offset :]), max_bytes)
        return self.slice(index, self.last_index + 1, max_bytes)

    def slice(self, low: LogIndex, high: LogIndex, max_bytes: int) -> tuple[Entry, ...]:
        """Return the entries of ``[low, high)`` within ``max_bytes``, but at least one if any.

        Raises:
            InvariantViolation: part of the range is compacted or not there yet.
        """
        first_index, last_index = self.first_index, self.last_index
        invariant(
            first_index <= low <= high <= last_index + 1,
            "INV-RAFT-14: only entries that are there are read",
            low=low,
            high=high,
            first_index=first_index,
            last_index=last_index,
        )
        offset = self.unstable.offset
        if low >= offset:
            return limit_bytes(self.unstable.slice(low, high), max_bytes)
        cut = min(high, offset)
        durable = self.stable.entries(low, cut, max_bytes)
        if high <= offset or len(durable) < cut - low:
            return durable
        used_bytes = encoded_bytes(durable)
        if used_bytes >= max_bytes:
            return durable
        rest = limit_bytes(self.unstable.slice(offset, high), max_bytes - used_bytes)
        if len(rest) == 1 and used_bytes + encoded_bytes(rest) > max_bytes:
            return durable
        return durable + rest

    def append(self, entries: tuple[Entry, ...]) -> LogIndex:
        """Put entries at their indices, replacing what stands there; return the last index.

        Raises:
            InvariantViolation: a committed entry would be replaced.
        """
        if not entries:
            return self.last_index
        invariant(
            entries[0].index > self.commit_index,
            "INV-RAFT-3: a committed entry is never replaced",
            first=entries[0].index,
            commit_index=self.commit_index,
        )
        self.unstable.truncate_and_append(entries)
        return entries[-1].index

    def commit_to(self, index: LogIndex) -> bool:
        """Raise the commit index; return whether it rose. A lower index changes nothing.

        Raises:
            InvariantViolation: the entry is not there: this log lost what it had acknowledged.
        """
        if index <= self.commit_index:
            return False
        invariant(
            index <= self.last_index,
            "INV-RAFT-2: what is committed is in the log; was it truncated, damaged or replaced?",
            index=index,
            last_index=self.last_index,
        )
        self.commit_index = index
        return True

    def latest_snapshot(self) -> RaftSnapshot | None:
        """Return the newest snapshot there is to send; None if none can be had at present."""
        return self.unstable.raft_snapshot or self.stable.latest_snapshot()

    def restore(self, received: RaftSnapshot) -> None:
        """Replace the whole log by a snapshot.

        Raises:
            InvariantViolation: the snapshot is older than what is committed.
        """
        invariant(
            received.index > self.commit_index,
            "INV-RAFT-2: the commit index never goes back",
            snapshot_index=received.index,
            commit_index=self.commit_index,
        )
        self.commit_index = received.index
        self.unstable.restore(received)
