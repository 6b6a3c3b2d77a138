"""Proposals: bounds, who takes them, and which membership changes become empty entries."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import DropReason, InvariantViolation, ProposalDropped
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange, Transition
from onceflow_consensus.raft.messages import Entry, EntryKind, Message, MessageKind

K = MessageKind


def dropped_for(action):
    with pytest.raises(ProposalDropped) as caught:
        action()
    return caught.value.reason


def add(*peer_ids, transition=Transition.AUTO):
    singles = tuple(SingleChange(ChangeOp.ADD_VOTER, peer_id) for peer_id in peer_ids)
    return ConfChange(singles, transition)


def leading(new_replica, **options):
    replica = new_replica(**options)
    replica.become_leader()
    replica.acknowledge(2)
    return replica


def test_a_batch_is_taken_together_with_consecutive_indices(new_replica):
    replica = leading(new_replica)
    replica.node.propose(b"a", b"b", b"c")
    ready = replica.node.ready()
    assert [(entry.index, entry.data) for entry in ready.entries] == [
        (2, b"a"),
        (3, b"b"),
        (4, b"c"),
    ]


def test_proposals_beyond_the_bound_are_dropped_until_enough_is_applied(new_replica):
    replica = leading(new_replica, max_uncommitted_bytes=10)
    replica.node.propose(b"x" * 25)  # alone it may exceed the bound, else it could never pass
    assert dropped_for(lambda: replica.node.propose(b"y")) is DropReason.UNCOMMITTED_BOUND
    replica.node.propose(b"")  # costs nothing
    assert replica.node.status.uncommitted_bytes == 25
    replica.work()
    replica.acknowledge(2)
    assert replica.node.status.uncommitted_bytes == 0
    replica.node.propose(b"y" * 6)
    assert dropped_for(lambda: replica.node.propose(b"z" * 6)) is DropReason.UNCOMMITTED_BOUND


def test_a_change_that_meets_the_bound_leaves_no_change_pending(new_replica):
    replica = leading(new_replica, max_uncommitted_bytes=10)
    replica.node.propose(b"x" * 10)
    pending_before = replica.state.pending_conf_index
    reason = dropped_for(lambda: replica.node.propose_conf_change(add(4)))
    assert reason is DropReason.UNCOMMITTED_BOUND
    assert replica.state.pending_conf_index == pending_before


def test_a_follower_passes_proposals_on_if_it_may_and_knows_the_leader(new_replica):
    replica = new_replica(peer_id=2)
    assert dropped_for(lambda: replica.node.propose(b"x")) is DropReason.NO_LEADER
    replica.receive(K.HEARTBEAT, 1, term=1)
    replica.node.propose(b"x")
    (message,) = replica.work()
    assert (message.kind, message.to, message.sender, message.term) == (K.PROP, 1, 2, 0)
    replica.node.step(Message(K.PROP, 2, 0, entries=(Entry(data=b"y"),)))
    (message,) = replica.work()
    assert message.sender == 2
    stubborn = new_replica(peer_id=2, forward_proposals=False)
    stubborn.receive(K.HEARTBEAT, 1, term=1)
    assert dropped_for(lambda: stubborn.node.propose(b"x")) is DropReason.FORWARDING_DISABLED


def test_a_candidate_and_a_leader_that_hands_over_take_no_proposals(new_replica):
    replica = new_replica()
    replica.node.campaign()
    assert dropped_for(lambda: replica.node.propose(b"x")) is DropReason.NO_LEADER
    replica = leading(new_replica)
    replica.node.transfer_leadership(2)
    assert dropped_for(lambda: replica.node.propose(b"x")) is DropReason.TRANSFERRING


def test_a_removed_leader_takes_no_proposals(new_replica):
    replica = leading(new_replica, step_down_on_removal=False)
    remove = ConfChange((SingleChange(ChangeOp.REMOVE, 1),))
    replica.node.propose_conf_change(remove)
    replica.work()
    replica.acknowledge(2)
    assert dropped_for(lambda: replica.node.propose(b"x")) is DropReason.NOT_A_MEMBER


def test_a_proposal_of_nothing_is_a_bug(new_replica):
    replica = leading(new_replica)
    with pytest.raises(InvariantViolation, match="INV-RAFT-19"):
        replica.node.propose()


def test_the_older_form_holds_one_operation(new_replica):
    replica = leading(new_replica)
    with pytest.raises(InvariantViolation, match="INV-RAFT-20"):
        replica.node.propose_conf_change(add(4, 5), as_v1=True)


@pytest.mark.parametrize(
    ("first", "second", "kinds"),
    [
        (add(4, transition=Transition.EXPLICIT), add(5), ["EntryConfChangeV2", "EntryNormal"]),
        (add(4), ConfChange(), ["EntryConfChangeV2", "EntryNormal"]),
        (
            add(4, transition=Transition.EXPLICIT),
            ConfChange(),
            ["EntryConfChangeV2", "EntryConfChangeV2"],
        ),
        (
            add(4, transition=Transition.EXPLICIT),
            ConfChange((), Transition.EXPLICIT),
            ["EntryConfChangeV2", "EntryNormal"],
        ),
        (
            ConfChange((), Transition.EXPLICIT),
            ConfChange(tuple(SingleChange(ChangeOp.REMOVE, n) for n in (1, 2, 3))),
            ["EntryNormal", "EntryNormal"],
        ),
    ],
    ids=[
        "joint refuses a change",
        "simple cannot be left",
        "joint can be left",
        "joint cannot be entered again",
        "some voter must stay",
    ],
)
def test_a_change_that_does_not_fit_becomes_an_empty_entry(new_replica, first, second, kinds):
    replica = leading(new_replica)
    for change in (first, second):
        replica.node.propose_conf_change(change)
        replica.work()
        replica.acknowledge(2)
    log = replica.state.log
    assert [entry.kind.value for entry in log.slice(2, 4, 10**6)] == kinds


def test_without_validation_every_change_enters_the_log(new_replica):
    replica = leading(new_replica, validate_conf_changes=False)
    replica.node.propose_conf_change(add(4))
    replica.node.propose_conf_change(add(5))
    entries = replica.node.ready().entries
    assert [entry.kind for entry in entries] == [EntryKind.CONF_CHANGE_V2] * 2
