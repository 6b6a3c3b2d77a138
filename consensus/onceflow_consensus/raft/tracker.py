"""The configuration in force with what is known of each member: progress and votes.

The single place that answers "does a quorum agree". Whether somebody is a learner is read from
the configuration alone, never kept beside it.
Must never import anything that does I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onceflow_consensus.quorum.majority import PeerId, VoteResult
from onceflow_consensus.raft.configuration import EMPTY_CONFIGURATION, Configuration
from onceflow_consensus.raft.inflights import Inflights
from onceflow_consensus.raft.progress import Progress

if TYPE_CHECKING:
    from onceflow_consensus.raft.confchange import ConfOutcome
    from onceflow_consensus.raft.messages import LogIndex


class Tracker:
    """Progress of every member of ``configuration``, and the votes of a campaign."""

    __slots__ = (
        "_max_inflight_bytes",
        "_max_inflight_messages",
        "configuration",
        "progress",
        "votes",
    )

    def __init__(self, max_inflight_messages: int, max_inflight_bytes: int) -> None:
        self._max_inflight_messages = max_inflight_messages
        self._max_inflight_bytes = max_inflight_bytes
        self.configuration: Configuration = EMPTY_CONFIGURATION
        self.progress: dict[PeerId, Progress] = {}
        self.votes: dict[PeerId, bool] = {}

    @property
    def voters(self) -> frozenset[PeerId]:
        """Return every voter of either half, whoever is asked for a vote."""
        return self.configuration.voters.peer_ids

    @property
    def is_singleton(self) -> bool:
        """Whether one voter alone decides."""
        return len(self.voters) == 1 and not self.configuration.is_joint

    def install(self, outcome: ConfOutcome, last_index: LogIndex) -> None:
        """Put a changed configuration into force, keeping what is known of who stays.

        A newcomer counts as recently active: it could not answer yet, and a check of the quorum
        that fails for its silence would depose a healthy leader.
        """
        known = self.progress
        self.configuration = outcome.configuration
        self.progress = {
            peer_id: known[peer_id]
            if peer_id in known and peer_id not in outcome.fresh
            else self._newcomer(last_index)
            for peer_id in sorted(outcome.configuration.peer_ids)
        }

    def restore(self, configuration: Configuration, last_index: LogIndex) -> None:
        """Start anew from a configuration that storage or a snapshot names."""
        self.configuration = configuration.checked()
        self.progress = {
            peer_id: self._newcomer(last_index) for peer_id in sorted(configuration.peer_ids)
        }

    def reset(self, own_id: PeerId, last_index: LogIndex) -> None:
        """Forget what a past leadership knew of the members, and all votes."""
        self.votes = {}
        for peer_id in self.progress:
            match_index = last_index if peer_id == own_id else 0
            self.progress[peer_id] = Progress(match_index, last_index + 1, self._window())

    def committed_index(self) -> LogIndex:
        """Return the highest index that a quorum has made durable."""
        acked = {peer_id: item.match_index for peer_id, item in self.progress.items()}
        return self.configuration.voters.committed_index(acked)

    def record_vote(self, peer_id: PeerId, *, is_granted: bool) -> VoteResult:
        """Count a vote, the first of each peer only, and return where the poll stands."""
        self.votes.setdefault(peer_id, is_granted)
        return self.configuration.voters.vote_result(self.votes)

    def is_quorum_active(self) -> bool:
        """Whether a quorum was heard of since the marks were last cleared."""
        heard = {peer_id: item.is_recently_active for peer_id, item in self.progress.items()}
        return self.configuration.voters.vote_result(heard) is VoteResult.WON

    def clear_activity(self, own_id: PeerId) -> None:
        """Start the next interval in which members have to be heard."""
        for peer_id, item in self.progress.items():
            if peer_id != own_id:
                item.is_recently_active = False

    def _newcomer(self, last_index: LogIndex) -> Progress:
        progress = Progress(0, max(last_index, 1), self._window())
        progress.is_recently_active = True
        return progress

    def _window(self) -> Inflights:
        return Inflights(self._max_inflight_messages, self._max_inflight_bytes)
