"""Decisions of one simple majority.

Pure functions over a set of voters. An empty set decides nothing and hinders nothing: every vote
is won and every index is committed, which makes it the neutral half of a joint quorum.
Must never import anything that does I/O, nor any engine.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

PeerId = int
"""Identity of a participant: a positive number below 2**64 - 2, never given to another one."""

EVERY_INDEX = 2**64 - 1
"""The committed index of an empty quorum: larger than any index, hence neutral under ``min``."""


class VoteResult(Enum):
    """Outcome of a poll."""

    PENDING = "VotePending"
    LOST = "VoteLost"
    WON = "VoteWon"


def majority_size(voter_count: int) -> int:
    """Return the smallest number of voters any two groups of which share a member."""
    return voter_count // 2 + 1


def committed_index(voters: AbstractSet[PeerId], acked: Mapping[PeerId, int]) -> int:
    """Return the largest index that a majority of ``voters`` has acknowledged.

    Args:
        voters: the members of the quorum.
        acked: the highest acknowledged index per peer; a missing peer acknowledged nothing.
    """
    if not voters:
        return EVERY_INDEX
    indices = sorted([acked.get(voter, 0) for voter in voters])
    return indices[len(indices) - majority_size(len(indices))]


def vote_result(voters: AbstractSet[PeerId], votes: Mapping[PeerId, bool]) -> VoteResult:
    """Return whether the votes cast so far decide the poll.

    Args:
        voters: the members of the quorum; votes of others are ignored.
        votes: True for yes, False for no; a missing peer has not voted.
    """
    granted = sum(1 for voter in voters if votes.get(voter, False))
    missing = sum(1 for voter in voters if voter not in votes)
    needed = majority_size(len(voters)) if voters else 0
    if granted >= needed:
        return VoteResult.WON
    if granted + missing >= needed:
        return VoteResult.PENDING
    return VoteResult.LOST
