"""What the leader knows of one follower, and how it therefore sends to it.

Three states. PROBE: where the logs agree is unknown, so one append per heartbeat interval asks.
REPLICATE: it is known, so appends are pipelined within the in-flight window. SNAPSHOT: the
entries the follower needs are compacted, so nothing is sent until a snapshot arrived.
Must never import anything that does I/O.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from onceflow_consensus.errors import invariant

if TYPE_CHECKING:
    from onceflow_consensus.raft.inflights import Inflights
    from onceflow_consensus.raft.messages import LogIndex


class ProgressState(Enum):
    """How a follower is sent to."""

    PROBE = "StateProbe"
    REPLICATE = "StateReplicate"
    SNAPSHOT = "StateSnapshot"


class Progress:
    """A follower as its leader sees it.

    match_index: the highest index known to be durable at the follower. Raised by acknowledgements.
    next_index: the next entry to send. Invariant: ``match_index < next_index``; equal to
        ``match_index + 1`` when probing starts.
    sent_commit_index: the highest commit index sent in a message that may have arrived; tells
        whether an empty append is worth sending.
    pending_snapshot_index: index of the snapshot under way; zero outside SNAPSHOT.
    is_recently_active: whether anything was heard since the last check of the quorum.
    is_flow_paused: whether sending waits for an answer or a heartbeat's answer.
    """

    __slots__ = (
        "inflights",
        "is_flow_paused",
        "is_recently_active",
        "match_index",
        "next_index",
        "pending_snapshot_index",
        "sent_commit_index",
        "state",
    )

    def __init__(self, match_index: LogIndex, next_index: LogIndex, inflights: Inflights) -> None:
        invariant(
            match_index < next_index,
            "INV-RAFT-5: the next entry lies above what matches",
            match_index=match_index,
            next_index=next_index,
        )
        self.match_index = match_index
        self.next_index = next_index
        self.sent_commit_index: LogIndex = 0
        self.state = ProgressState.PROBE
        self.pending_snapshot_index: LogIndex = 0
        self.is_recently_active = False
        self.is_flow_paused = False
        self.inflights = inflights

    @property
    def is_paused(self) -> bool:
        """Whether no append with entries may be sent at present."""
        return self.is_flow_paused or self.state is ProgressState.SNAPSHOT

    def become_probe(self) -> None:
        """Look for the point of agreement, above a snapshot that just arrived."""
        floor = self.match_index
        if self.state is ProgressState.SNAPSHOT:
            floor = max(floor, self.pending_snapshot_index)
        self._enter(ProgressState.PROBE)
        self.next_index = floor + 1
        self._lower_sent_commit()

    def become_replicate(self) -> None:
        """Send without waiting: everything up to ``match_index`` is known to agree."""
        self._enter(ProgressState.REPLICATE)
        self.next_index = self.match_index + 1

    def become_snapshot(self, snapshot_index: LogIndex) -> None:
        """Wait for a snapshot to arrive."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot_index = snapshot_index
        self.next_index = snapshot_index + 1
        self.sent_commit_index = snapshot_index

    def abandon_snapshot(self) -> None:
        """Probe from what matches: the snapshot under way did not arrive."""
        self.pending_snapshot_index = 0
        self.become_probe()

    def sent_entries(self, count: int, message_bytes: int) -> None:
        """Account for an append of ``count`` entries that was sent.

        Raises:
            InvariantViolation: nothing may be sent while a snapshot is under way.
        """
        invariant(
            self.state is not ProgressState.SNAPSHOT,
            "INV-RAFT-18: no append is sent while a snapshot is under way",
            pending_snapshot_index=self.pending_snapshot_index,
        )
        if self.state is ProgressState.PROBE:
            self.is_flow_paused = self.is_flow_paused or count > 0
            return
        if count > 0:
            self.next_index += count
            self.inflights.add(self.next_index - 1, message_bytes)
        self.is_flow_paused = self.inflights.is_full

    def can_raise_commit(self, commit_index: LogIndex) -> bool:
        """Whether telling ``commit_index`` would tell the follower something it can use."""
        return (
            commit_index > self.sent_commit_index and self.sent_commit_index < self.next_index - 1
        )

    def acknowledged(self, index: LogIndex) -> bool:
        """Raise ``match_index`` to ``index``; return whether it rose (late answers do not)."""
        if index <= self.match_index:
            return False
        self.match_index = index
        self.next_index = max(self.next_index, index + 1)
        self.is_flow_paused = False
        return True

    def rejected(self, index: LogIndex, match_hint: LogIndex) -> bool:
        """Step back after a rejection of an append that followed ``index``.

        Args:
            index: the entry before the rejected append.
            match_hint: the highest index at which the logs may agree.

        Returns:
            False for a rejection that is stale: later answers have settled it.
        """
        if self.state is ProgressState.REPLICATE:
            if index <= self.match_index:
                return False
            self.next_index = self.match_index + 1
            self._lower_sent_commit()
            return True
        # A probe is sent alone, so that any other index is an answer to an older one.
        if self.next_index - 1 != index:
            return False
        self.next_index = max(min(index, match_hint + 1), self.match_index + 1)
        self._lower_sent_commit()
        self.is_flow_paused = False
        return True

    def _enter(self, state: ProgressState) -> None:
        self.is_flow_paused = False
        self.pending_snapshot_index = 0
        self.state = state
        self.inflights.clear()

    def _lower_sent_commit(self) -> None:
        self.sent_commit_index = min(self.sent_commit_index, self.next_index - 1)
