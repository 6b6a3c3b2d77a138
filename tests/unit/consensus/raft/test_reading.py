"""ReadIndex: who answers, when, and what is dropped instead of growing without end."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import DropReason, ReadDropped
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange, Transition
from onceflow_consensus.raft.messages import Entry, HardState, Message, MessageKind
from onceflow_consensus.raft.options import ReadMode
from onceflow_consensus.raft.roles import Role

K = MessageKind


def leading(new_replica, **options):
    replica = new_replica(**options)
    replica.become_leader()
    for peer_id in sorted(replica.state.tracker.voters - {1}):
        replica.acknowledge(peer_id, 1)
    assert replica.state.log.commit_index == 1
    return replica


def contexts(messages):
    return [message.context for message in messages if message.kind is K.HEARTBEAT]


def test_a_lone_voter_answers_at_once(new_replica):
    replica = new_replica(voters=(1,))
    replica.become_leader()
    replica.node.read_index(b"r")
    replica.work()
    assert [(read.index, read.request_context) for read in replica.reads] == [(1, b"r")]


def test_a_voter_that_is_both_halves_of_a_joint_configuration_answers_at_once(new_replica):
    replica = new_replica(voters=(1,))
    replica.become_leader()
    change = ConfChange((SingleChange(ChangeOp.UPDATE, 1),), Transition.EXPLICIT)
    replica.node.propose_conf_change(change)
    replica.work()
    assert replica.node.status.configuration.is_joint
    replica.node.read_index(b"r")
    replica.work()
    assert [(read.index, read.request_context) for read in replica.reads] == [(2, b"r")]


def test_a_lone_voter_that_restarted_waits_until_it_knows_what_it_had_committed(new_replica):
    # Two entries were committed, and only the first commit index reached the disk.
    replica = new_replica([1, 1], voters=(1,), hard_state=HardState(1, 1, 1))
    replica.node.campaign()
    while replica.state.role is not Role.LEADER:
        replica.node.ready()
        replica.node.advance()
    replica.node.read_index(b"r")
    assert replica.state.read_states == []
    replica.work()
    assert [read.index for read in replica.reads] == [3]


def test_a_later_confirmation_confirms_all_earlier_reads_in_order(new_replica):
    replica = leading(new_replica)
    replica.node.read_index(b"first")
    replica.node.propose(b"between")
    replica.work()
    replica.acknowledge(2, 2)
    replica.node.read_index(b"second")
    latest = contexts(replica.work())[-1]
    replica.receive(K.HEARTBEAT_RESP, 3, context=latest)
    assert [(r.index, r.request_context) for r in replica.reads] == [(1, b"first"), (2, b"second")]


def test_an_older_confirmation_does_not_confirm_a_later_read(new_replica):
    replica = leading(new_replica)
    replica.node.read_index(b"first")
    early = contexts(replica.work())[-1]
    replica.node.read_index(b"second")
    replica.work()
    replica.receive(K.HEARTBEAT_RESP, 2, context=early)
    assert [read.request_context for read in replica.reads] == [b"first"]
    replica.receive(K.HEARTBEAT_RESP, 2, context=early)
    replica.receive(K.HEARTBEAT_RESP, 3)
    assert len(replica.reads) == 1


def test_a_read_of_a_follower_is_passed_on_and_answered_to_it(new_replica):
    replica = leading(new_replica)
    request = Entry(data=b"r")
    replica.node.step(Message(K.READ_INDEX, 1, 2, entries=(request,)))
    context = contexts(replica.work())[-1]
    sent = replica.receive(K.HEARTBEAT_RESP, 2, context=context)
    (answer,) = [message for message in sent if message.kind is K.READ_INDEX_RESP]
    assert (answer.to, answer.index, answer.entries) == (2, 1, (request,))

    follower = new_replica(peer_id=2)
    follower.receive(K.HEARTBEAT, 1, term=1)
    follower.node.read_index(b"r")
    (request_message,) = follower.work()
    assert (request_message.kind, request_message.to, request_message.sender) == (
        K.READ_INDEX,
        1,
        2,
    )
    follower.receive(K.READ_INDEX_RESP, 1, index=1, entries=(request,))
    assert [(read.index, read.request_context) for read in follower.reads] == [(1, b"r")]
    follower.receive(K.READ_INDEX_RESP, 1, index=1)
    assert len(follower.reads) == 1


def test_lease_reads_need_no_round_but_still_a_commit_of_the_term(new_replica):
    options = {"read_mode": ReadMode.LEASE, "check_quorum": True}
    replica = new_replica(**options)
    replica.become_leader()
    replica.node.read_index(b"early")
    assert replica.work() == []
    assert replica.reads == []
    replica.acknowledge(2, 1)
    replica.node.read_index(b"late")
    assert contexts(replica.work()) == []
    assert [read.request_context for read in replica.reads] == [b"early", b"late"]
    replica.receive(K.HEARTBEAT_RESP, 2, context=b"\x01")


def test_reads_are_dropped_beyond_their_bound(new_replica):
    replica = leading(new_replica, max_pending_reads=2)
    replica.node.read_index(b"1")
    replica.node.read_index(b"2")
    with pytest.raises(ReadDropped) as caught:
        replica.node.read_index(b"3")
    assert caught.value.reason is DropReason.READ_BOUND


def test_reads_without_a_leader_are_dropped(new_replica):
    replica = new_replica()
    with pytest.raises(ReadDropped) as caught:
        replica.node.read_index(b"r")
    assert caught.value.reason is DropReason.NO_LEADER
    replica.node.campaign()
    with pytest.raises(ReadDropped):
        replica.node.read_index(b"r")


def test_reads_of_a_lost_leadership_are_forgotten(new_replica):
    replica = leading(new_replica)
    replica.node.read_index(b"r")
    context = contexts(replica.work())[-1]
    replica.receive(K.HEARTBEAT, 2, term=5)
    replica.become_leader()
    replica.acknowledge(2)
    replica.receive(K.HEARTBEAT_RESP, 2, context=context)
    assert replica.reads == []
