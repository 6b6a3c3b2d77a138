"""A durable log that is only remembered: the in-memory ``StableLog`` of tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import (
    EMPTY_HARD_STATE,
    Entry,
    HardState,
    LogIndex,
    RaftSnapshot,
    Term,
    limit_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.raft.configuration import Configuration

NO_SNAPSHOT = RaftSnapshot()
"""What a log begins with that was given nothing."""


class MemoryLog:
    """Entries above a base position, hard state, and the snapshot the log began with.

    ``newest_snapshot`` replaces what is sent to followers: a state machine knows a newer state
    than the one the log began with.
    """

    def __init__(self, begun_with: RaftSnapshot = NO_SNAPSHOT) -> None:
        self.hard_state = EMPTY_HARD_STATE
        self.newest_snapshot: Callable[[], RaftSnapshot | None] = lambda: self._begun_with
        self._begun_with = begun_with
        self._base = Entry(begun_with.term, begun_with.index)
        self._entries: list[Entry] = []

    @property
    def first_index(self) -> LogIndex:
        """See ``StableLog``."""
        return self._base.index + 1

    @property
    def last_index(self) -> LogIndex:
        """See ``StableLog``."""
        return self._base.index + len(self._entries)

    def initial_state(self) -> tuple[HardState, Configuration]:
        """See ``StableLog``."""
        return self.hard_state, self._begun_with.configuration

    def term_at(self, index: LogIndex) -> Term | None:
        """See ``StableLog``."""
        if index == self._base.index:
            return self._base.term
        position = index - self.first_index
        return self._entries[position].term if 0 <= position < len(self._entries) else None

    def entries(self, low: LogIndex, high: LogIndex, max_bytes: int) -> tuple[Entry, ...]:
        """See ``StableLog``."""
        invariant(
            self.first_index <= low <= high <= self.last_index + 1,
            "INV-RAFT-14: only entries that are there are read",
            low=low,
            high=high,
        )
        wanted = self._entries[low - self.first_index : high - self.first_index]
        return limit_bytes(tuple(wanted), max_bytes)

    def latest_snapshot(self) -> RaftSnapshot | None:
        """See ``StableLog``."""
        return self.newest_snapshot()

    def append(self, entries: tuple[Entry, ...]) -> None:
        """Store entries at their indices, dropping what stood there and above.

        Entries below the first index are skipped: a snapshot has overtaken them.
        """
        kept = [entry for entry in entries if entry.index >= self.first_index]
        if not kept:
            return
        invariant(
            kept[0].index <= self.last_index + 1,
            "INV-RAFT-12: the log has no holes",
            first=kept[0].index,
            last_index=self.last_index,
        )
        del self._entries[kept[0].index - self.first_index :]
        self._entries.extend(kept)

    def install(self, received: RaftSnapshot) -> None:
        """Begin anew from a snapshot; an older one than the present is ignored."""
        if received.index <= self._begun_with.index:
            return
        self._begun_with = received
        self._base = Entry(received.term, received.index)
        self._entries = []

    def compact(self, index: LogIndex) -> None:
        """Drop the entries up to ``index``, which must be stored."""
        invariant(
            self._base.index < index <= self.last_index,
            "INV-RAFT-14: only entries that are there are compacted",
            index=index,
            first_index=self.first_index,
            last_index=self.last_index,
        )
        term = self.term_at(index)
        del self._entries[: index - self._base.index]
        self._base = Entry(term or 0, index)
