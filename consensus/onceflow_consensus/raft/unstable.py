"""The tail of the log that is not yet known to be durable.

Theory of operation: entries at and above ``offset`` live here until the writer reports them
durable. ``in_progress_offset`` divides those that were handed to the writer from those that were
not. A snapshot received from the leader waits here likewise; it stands for everything below
``offset``. Truncation moves both offsets back, so that a report for entries that were meanwhile
replaced must name their term to be believed.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import EntryId

if TYPE_CHECKING:
    from onceflow_consensus.raft.messages import Entry, LogIndex, RaftSnapshot, Term


class UnstableLog:
    """Entries and snapshot that still have to become durable.

    offset: index of the first entry held here; everything below is in the stable log or covered
        by the snapshot.
    in_progress_offset: index of the first entry not handed to the writer.
        Invariant: ``offset <= in_progress_offset <= offset + len(entries)``.
    """

    __slots__ = (
        "entries",
        "in_progress_offset",
        "is_snapshot_in_progress",
        "offset",
        "raft_snapshot",
    )

    def __init__(self, offset: LogIndex) -> None:
        self.offset = offset
        self.in_progress_offset = offset
        self.entries: list[Entry] = []
        self.raft_snapshot: RaftSnapshot | None = None
        self.is_snapshot_in_progress = False

    def last_index(self) -> LogIndex | None:
        """Return the highest index known here, None if nothing is."""
        if self.entries:
            return self.offset + len(self.entries) - 1
        return self.raft_snapshot.index if self.raft_snapshot is not None else None

    @property
    def last_id(self) -> EntryId:
        """Return term and index of the last entry held here; both zero if there is none."""
        if not self.entries:
            return EntryId()
        return EntryId(self.entries[-1].term, self.entries[-1].index)

    def term_at(self, index: LogIndex) -> Term | None:
        """Return the term at ``index`` if it is known here."""
        position = index - self.offset
        if 0 <= position < len(self.entries):
            return self.entries[position].term
        received = self.raft_snapshot
        if received is not None and position < 0 and received.index == index:
            return received.term
        return None

    def next_entries(self) -> tuple[Entry, ...]:
        """Return the entries that were not handed to the writer."""
        return tuple(self.entries[self.in_progress_offset - self.offset :])

    def next_snapshot(self) -> RaftSnapshot | None:
        """Return the snapshot if it was not handed to the writer."""
        return None if self.is_snapshot_in_progress else self.raft_snapshot

    def accept_in_progress(self) -> None:
        """Mark everything held here as handed to the writer."""
        self.in_progress_offset = self.offset + len(self.entries)
        self.is_snapshot_in_progress = self.raft_snapshot is not None

    def stable_to(self, written: EntryId) -> None:
        """Drop what is durable up to ``written``; a report that does not fit is ignored.

        It does not fit if the entry was replaced by another term's while it was being written:
        what became durable then is no longer this log's.
        """
        position = written.index - self.offset
        if not 0 <= position < len(self.entries):
            return
        if self.entries[position].term != written.term:
            return
        del self.entries[: position + 1]
        self.offset = written.index + 1
        self.in_progress_offset = max(self.in_progress_offset, self.offset)

    def stable_snapshot_to(self, index: LogIndex) -> None:
        """Drop the snapshot if it is the one that became durable."""
        if self.raft_snapshot is not None and self.raft_snapshot.index == index:
            self.raft_snapshot = None
            self.is_snapshot_in_progress = False

    def restore(self, received: RaftSnapshot) -> None:
        """Replace everything by a snapshot."""
        self.offset = received.index + 1
        self.in_progress_offset = self.offset
        self.entries = []
        self.raft_snapshot = received
        self.is_snapshot_in_progress = False

    def truncate_and_append(self, entries: tuple[Entry, ...]) -> None:
        """Put ``entries`` at their indices, dropping what stood there and above.

        Raises:
            InvariantViolation: the entries would leave a hole.
        """
        first = entries[0].index
        invariant(
            first <= self.offset + len(self.entries),
            "INV-RAFT-12: the log has no holes",
            first=first,
            end=self.offset + len(self.entries),
        )
        if first <= self.offset:
            # Everything held here is replaced, and perhaps entries that are durable already: they
            # are overwritten when these become durable.
            self.entries = list(entries)
            self.offset = first
            self.in_progress_offset = first
            return
        del self.entries[first - self.offset :]
        self.entries.extend(entries)
        self.in_progress_offset = min(self.in_progress_offset, first)

    def slice(self, low: LogIndex, high: LogIndex) -> tuple[Entry, ...]:
        """Return the entries of ``[low, high)``; the caller stays within what is held."""
        return tuple(self.entries[low - self.offset : high - self.offset])
