"""A durable log that is only remembered: the in-memory ``StableLog`` of tests and simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant
from onceflow_consensus.raft.messages import (
    EMPTY_HARD_STATE,
    EntryId,
    HardState,
    LogIndex,
    RaftSnapshot,
)
from onceflow_consensus.raft.stable import HeldEntries

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow_consensus.raft.configuration import Configuration

NO_SNAPSHOT = RaftSnapshot()
"""What a log begins with that was given nothing."""


class MemoryLog(HeldEntries):
    """Entries above a base position, hard state, and the snapshot the log began with.

    ``newest_snapshot`` replaces what is sent to followers: a state machine knows a newer state
    than the one the log began with.
    """

    def __init__(self, begun_with: RaftSnapshot = NO_SNAPSHOT) -> None:
        super().__init__(EntryId(begun_with.term, begun_with.index))
        self.hard_state = EMPTY_HARD_STATE
        self.newest_snapshot: Callable[[], RaftSnapshot | None] = lambda: self._begun_with
        self._begun_with = begun_with

    def initial_state(self) -> tuple[HardState, Configuration]:
        """See ``StableLog``."""
        return self.hard_state, self._begun_with.configuration

    def latest_snapshot(self) -> RaftSnapshot | None:
        """See ``StableLog``."""
        return self.newest_snapshot()

    def install(self, received: RaftSnapshot) -> None:
        """Begin anew from a snapshot; an older one than the present is ignored."""
        if received.index > self._begun_with.index:
            self._begun_with = received
            self.begin_at(EntryId(received.term, received.index))

    def compact(self, index: LogIndex) -> None:
        """Drop the entries up to ``index``, which must be stored."""
        term = self.term_at(index)
        invariant(
            term is not None and index >= self.first_index,
            "INV-RAFT-14: only entries that are there are compacted",
            index=index,
            first_index=self.first_index,
            last_index=self.last_index,
        )
        self.drop_to(EntryId(term or 0, index))
