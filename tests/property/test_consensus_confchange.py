"""Any sequence of membership changes keeps the configuration sound and its quorums overlapping."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow_consensus.errors import ConfChangeRefused
from onceflow_consensus.quorum.majority import VoteResult
from onceflow_consensus.raft.confchange import (
    LEAVE_JOINT,
    ChangeOp,
    ConfChange,
    SingleChange,
    Transition,
    change_configuration,
    leave_joint,
)
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.tracker import Tracker

singles = st.builds(SingleChange, st.sampled_from(ChangeOp), st.integers(0, 5))
changes = st.one_of(
    st.just(LEAVE_JOINT),
    st.builds(
        ConfChange,
        st.lists(singles, min_size=1, max_size=4).map(tuple),
        st.sampled_from(Transition),
    ),
)


def quorums(configuration):
    members = sorted(configuration.voters.peer_ids)
    for size in range(1, len(members) + 1):
        for chosen in combinations(members, size):
            votes = {peer: peer in chosen for peer in members}
            if configuration.voters.vote_result(votes) is VoteResult.WON:
                yield set(chosen)


@given(st.lists(changes, max_size=8))
@settings(max_examples=300, deadline=None)
def test_every_quorum_before_a_change_meets_every_quorum_after_it(steps):
    tracker = Tracker(10, 1000)
    tracker.restore(configuration_of(frozenset({1, 2, 3})), 5)
    for step in steps:
        before = tracker.configuration
        try:
            outcome = change_configuration(before, step)
        except ConfChangeRefused:
            continue
        tracker.install(outcome, 5)
        after = tracker.configuration.checked()
        assert set(tracker.progress) == after.peer_ids
        assert all(old & new for old in quorums(before) for new in quorums(after))


@given(st.lists(singles, min_size=1, max_size=5))
@settings(max_examples=300, deadline=None)
def test_a_joint_change_ends_where_the_operations_lead_one_by_one(operations):
    start = configuration_of(frozenset({1, 2}), frozenset({3}))
    by_one = start
    try:
        for operation in operations:
            by_one = change_configuration(by_one, ConfChange((operation,))).configuration
        joint = change_configuration(start, ConfChange(tuple(operations), Transition.EXPLICIT))
    except ConfChangeRefused:
        return
    assert leave_joint(joint.configuration).configuration == by_one
