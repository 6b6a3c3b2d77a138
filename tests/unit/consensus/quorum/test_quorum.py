"""Majorities and joint majorities: the edges, and how the two relate."""

from __future__ import annotations

from itertools import product

import pytest

from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.quorum.majority import (
    EVERY_INDEX,
    VoteResult,
    committed_index,
    majority_size,
    vote_result,
)


@pytest.mark.parametrize(("voters", "size"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_two_majorities_share_a_voter(voters, size):
    assert majority_size(voters) == size
    assert 2 * size > voters


def test_an_empty_quorum_is_neutral():
    assert committed_index(frozenset(), {}) == EVERY_INDEX
    assert vote_result(frozenset(), {}) is VoteResult.WON
    assert not JointVoters(frozenset({1})).is_joint


def test_the_committed_index_is_the_median_not_the_mode():
    assert committed_index({1, 2, 3, 4, 5}, {1: 9, 2: 3, 3: 3, 4: 5, 5: 7}) == 5


def test_acknowledgements_and_votes_of_strangers_do_not_count():
    assert committed_index({1, 2, 3}, {1: 4, 8: 9, 9: 9}) == 0
    assert vote_result({1, 2, 3}, {1: True, 8: True, 9: True}) is VoteResult.PENDING


def test_a_joint_quorum_is_not_a_majority_of_the_union():
    voters = JointVoters(frozenset({1, 2, 3}), frozenset({3, 4, 5}))
    assert voters.is_joint
    assert voters.peer_ids == {1, 2, 3, 4, 5}
    votes = {1: True, 2: True, 3: True}
    assert vote_result(voters.peer_ids, votes) is VoteResult.WON
    assert voters.vote_result(votes) is VoteResult.PENDING
    assert voters.vote_result({**votes, 4: False, 5: False}) is VoteResult.LOST
    assert voters.committed_index({1: 8, 2: 8, 3: 8}) == 0


def test_all_votes_of_two_small_halves_agree_with_counting_each_half():
    voters = JointVoters(frozenset({1, 2, 3}), frozenset({2, 3, 4}))
    for ballots in product((True, False, None), repeat=4):
        votes = {peer: vote for peer, vote in enumerate(ballots, 1) if vote is not None}
        yes = [sum(votes.get(p, False) for p in half) for half in ((1, 2, 3), (2, 3, 4))]
        no = [sum(votes.get(p) is False for p in half) for half in ((1, 2, 3), (2, 3, 4))]
        expected = VoteResult.PENDING
        if min(yes) >= 2:
            expected = VoteResult.WON
        elif max(no) >= 2:
            expected = VoteResult.LOST
        assert voters.vote_result(votes) is expected
