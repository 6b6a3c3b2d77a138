"""Membership changes: refusals, the wire form, and what a malformed one leads to."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import ConfChangeRefusal, ConfChangeRefused, InvariantViolation
from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.confchange import (
    LEAVE_JOINT,
    ChangeOp,
    ConfChange,
    SingleChange,
    Transition,
    change_configuration,
    decode_conf_change,
    encode_conf_change,
)
from onceflow_consensus.raft.configuration import (
    EMPTY_CONFIGURATION,
    Configuration,
    configuration_of,
)

THREE = configuration_of(frozenset({1, 2, 3}))


def change(text, transition=Transition.AUTO, context=b""):
    singles = tuple(SingleChange(ChangeOp(word[0]), int(word[1:])) for word in text.split())
    return ConfChange(singles, transition, context)


@pytest.mark.parametrize(
    "original",
    [
        LEAVE_JOINT,
        change("v1"),
        change("v1 l2 r3 u4", Transition.EXPLICIT, b"who asked"),
        change("", Transition.IMPLICIT),
        ConfChange(context=b"only a context"),
    ],
)
def test_a_change_survives_the_log(original):
    assert decode_conf_change(encode_conf_change(original)) == original


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        b"\x02\x00\x00\x00",
        b"\x01\x09\x00\x00",
        b"\x01\x00\x01\x00",
        b"\x01\x00\x01\x00\x09" + b"\x00" * 8,
    ],
)
def test_a_damaged_change_stops_the_replica(data):
    with pytest.raises(InvariantViolation, match="INV-RAFT-17"):
        decode_conf_change(data)


@pytest.mark.parametrize(
    ("before", "wanted", "refusal"),
    [
        (EMPTY_CONFIGURATION, change("v1 v2"), ConfChangeRefusal.ZERO_VOTERS),
        (THREE, LEAVE_JOINT, ConfChangeRefusal.NOT_JOINT),
        (THREE, change("r1 r2 r3"), ConfChangeRefusal.NO_VOTERS_LEFT),
        (configuration_of(frozenset({1})), change("r1"), ConfChangeRefusal.NO_VOTERS_LEFT),
    ],
)
def test_a_change_that_does_not_fit_is_refused(before, wanted, refusal):
    with pytest.raises(ConfChangeRefused) as caught:
        change_configuration(before, wanted)
    assert caught.value.refusal is refusal


def test_only_leaving_is_possible_while_joint():
    joint = change_configuration(THREE, change("v4", Transition.EXPLICIT)).configuration
    assert joint.voters == JointVoters(frozenset({1, 2, 3, 4}), frozenset({1, 2, 3}))
    assert not joint.auto_leave
    for wanted, refusal in [
        (change("v5"), ConfChangeRefusal.SIMPLE_WHILE_JOINT),
        (change("v5 v6"), ConfChangeRefusal.ALREADY_JOINT),
    ]:
        with pytest.raises(ConfChangeRefused) as caught:
            change_configuration(joint, wanted)
        assert caught.value.refusal is refusal
    after = change_configuration(joint, LEAVE_JOINT).configuration
    assert after == configuration_of(frozenset({1, 2, 3, 4}))


def test_two_voters_go_through_a_joint_configuration_that_is_left_by_itself():
    joint = change_configuration(THREE, change("r1 l2")).configuration
    assert joint.auto_leave
    assert joint.learners_next == {2}
    assert joint.learners == frozenset()
    after = change_configuration(joint, LEAVE_JOINT).configuration
    assert after == configuration_of(frozenset({3}), frozenset({2}))


def test_a_peer_that_leaves_and_returns_in_one_change_starts_anew():
    outcome = change_configuration(
        configuration_of(frozenset({1, 2})), change("r2 v2 u1", Transition.AUTO)
    )
    # Three operations go through a joint configuration, which keeps the outgoing voter's progress.
    assert outcome.fresh == frozenset()
    learners = configuration_of(frozenset({1}), frozenset({2}))
    again = change_configuration(learners, change("r2 l2", Transition.IMPLICIT))
    assert again.fresh == {2}


@pytest.mark.parametrize(
    "broken",
    [
        Configuration(JointVoters(frozenset({1})), learners=frozenset({1})),
        Configuration(JointVoters(frozenset({1})), learners_next=frozenset({1})),
        Configuration(JointVoters(frozenset({1})), auto_leave=True),
    ],
)
def test_a_configuration_that_no_change_makes_is_a_violation(broken):
    with pytest.raises(InvariantViolation, match="INV-RAFT-7"):
        broken.checked()
