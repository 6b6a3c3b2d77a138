"""Decisions of a joint quorum: both halves must agree (Raft thesis, section 4.3).

The halves are asked separately. Counting a majority of their union instead would let two disjoint
majorities decide differently.
Must never import anything that does I/O, nor any engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onceflow_consensus.quorum.majority import (
    PeerId,
    VoteResult,
    committed_index,
    vote_result,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class JointVoters:
    """The voters of a configuration: one majority, or two while the membership changes.

    ``incoming`` are the voters of the configuration that is in force or being entered.
    ``outgoing`` are the voters of the one being left; empty unless the configuration is joint.
    """

    incoming: frozenset[PeerId] = frozenset()
    outgoing: frozenset[PeerId] = frozenset()

    @property
    def is_joint(self) -> bool:
        """Whether two majorities are asked."""
        return bool(self.outgoing)

    @property
    def peer_ids(self) -> frozenset[PeerId]:
        """Return every voter of either half."""
        return self.incoming | self.outgoing

    def committed_index(self, acked: Mapping[PeerId, int]) -> int:
        """Return the largest index that each half has acknowledged by a majority."""
        index = committed_index(self.incoming, acked)
        return min(index, committed_index(self.outgoing, acked)) if self.outgoing else index

    def vote_result(self, votes: Mapping[PeerId, bool]) -> VoteResult:
        """Return the outcome: won if both halves won, lost if either lost."""
        results = {vote_result(self.incoming, votes), vote_result(self.outgoing, votes)}
        if VoteResult.LOST in results:
            return VoteResult.LOST
        if VoteResult.PENDING in results:
            return VoteResult.PENDING
        return VoteResult.WON
