"""The thesis on Raft, statement by statement, as far as it goes beyond the paper.

Each test names its section. Where the engine follows etcd-raft instead, the README says so.
"""

from __future__ import annotations

from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange, Transition
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    TRANSFER_CONTEXT,
    Entry,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.testing.memory_log import MemoryLog

K = MessageKind


def entries(*pairs):
    """Entries from (term, index) pairs."""
    return tuple(Entry(term, index) for term, index in pairs)


def test_thesis_3_8_entries_are_acknowledged_only_when_durable():
    log = MemoryLog(RaftSnapshot(1, 1, configuration_of(frozenset({1, 2, 3}))))
    options = RaftOptions(1, storage=StorageMode.MESSAGES)
    node = RaftNode(options, log, applied_index=1)
    node.step(Message(K.APP, 1, 2, 1, index=1, log_term=1, entries=entries((1, 2))))
    ready = node.ready()
    assert ready.messages == ()
    kinds = [response.kind for response in ready.storage_append.responses]
    assert kinds == [K.APP_RESP, K.STORAGE_APPEND_RESP]


def test_thesis_3_10_leadership_is_transferred_to_an_up_to_date_follower(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.acknowledge(2, 1)
    replica.node.propose(b"x")
    replica.work()
    replica.node.transfer_leadership(2)
    assert K.TIMEOUT_NOW not in [m.kind for m in replica.work()]
    sent = replica.acknowledge(2)
    assert [(m.kind, m.to) for m in sent if m.kind is K.TIMEOUT_NOW] == [(K.TIMEOUT_NOW, 2)]


def test_thesis_3_10_the_chosen_follower_is_voted_for_although_a_leader_lives(new_replica):
    replica = new_replica(check_quorum=True)
    replica.receive(K.HEARTBEAT, 2, term=1)
    assert replica.receive(K.VOTE, 3, term=2) == []
    (answer,) = replica.receive(K.VOTE, 3, term=2, context=TRANSFER_CONTEXT)
    assert (answer.kind, answer.rejected) == (K.VOTE_RESP, False)


def test_thesis_4_1_one_membership_change_is_under_way_at_a_time(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.acknowledge(2)
    for peer_id in (4, 5):
        add = ConfChange((SingleChange(ChangeOp.ADD_VOTER, peer_id),))
        replica.node.propose_conf_change(add, as_v1=True)
    replica.work()
    replica.acknowledge(2)
    assert replica.state.tracker.voters == {1, 2, 3, 4}
    assert [entry.kind.value for entry in replica.applied[-2:]] == [
        "EntryConfChange",
        "EntryNormal",
    ]


def test_thesis_4_1_no_change_before_the_entries_of_earlier_terms_are_applied(new_replica):
    replica = new_replica([1])
    replica.become_leader()
    add = ConfChange((SingleChange(ChangeOp.ADD_VOTER, 4),))
    replica.node.propose_conf_change(add)
    replica.work()
    replica.acknowledge(2)
    assert replica.state.tracker.voters == {1, 2, 3}


def test_thesis_4_2_1_a_learner_receives_the_log_and_does_not_count(new_replica):
    replica = new_replica(voters=(1, 2), learners=(3,))
    assert {m.to for m in replica.become_leader()} <= {2, 3}
    replica.acknowledge(3, 1)
    assert replica.state.log.commit_index == 0
    replica.acknowledge(2, 1)
    assert replica.state.log.commit_index == 1


def test_thesis_4_2_1_a_learner_does_not_campaign(new_replica):
    replica = new_replica(voters=(1, 2), learners=(3,), peer_id=3)
    replica.node.campaign()
    for _ in range(30):
        replica.node.tick(10)
    assert (replica.state.role, replica.state.term) == (Role.FOLLOWER, 0)


def test_thesis_4_3_in_a_joint_configuration_both_majorities_decide(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.acknowledge(2)
    swap = tuple(
        SingleChange(op, peer_id)
        for op, peer_id in [
            (ChangeOp.ADD_VOTER, 4),
            (ChangeOp.ADD_VOTER, 5),
            (ChangeOp.REMOVE, 2),
            (ChangeOp.REMOVE, 3),
        ]
    )
    replica.node.propose_conf_change(ConfChange(swap, Transition.EXPLICIT))
    replica.work()
    replica.acknowledge(2)
    assert replica.state.tracker.configuration.is_joint
    replica.node.propose(b"needs both")
    replica.work()
    index = replica.state.log.last_index
    replica.acknowledge(2)
    replica.acknowledge(3)
    assert replica.state.log.commit_index == index - 1
    replica.acknowledge(4)
    assert replica.state.log.commit_index == index
    replica.node.propose_conf_change(ConfChange())
    replica.work()
    replica.acknowledge(2)
    replica.acknowledge(4)
    assert replica.state.tracker.voters == {1, 4, 5}


def test_thesis_6_2_a_leader_that_hears_no_quorum_steps_down(new_replica):
    replica = new_replica(check_quorum=True)
    replica.become_leader()
    replica.acknowledge(2)
    for _ in range(10):
        replica.node.tick(10)
    assert replica.state.role is Role.LEADER
    for _ in range(10):
        replica.node.tick(10)
    assert (replica.state.role, replica.state.raft_leader) == (Role.FOLLOWER, 0)


def test_thesis_6_4_a_read_waits_for_an_entry_of_the_term_and_for_a_round_of_heartbeats(
    new_replica,
):
    replica = new_replica()
    replica.become_leader()
    replica.node.read_index(b"r1")
    assert replica.work() == []
    sent = replica.acknowledge(2)
    (context,) = {m.context for m in sent if m.kind is K.HEARTBEAT}
    assert replica.reads == []
    replica.receive(K.HEARTBEAT_RESP, 2, context=context)
    assert [(read.index, read.request_context) for read in replica.reads] == [(1, b"r1")]


def test_thesis_9_6_a_pre_candidate_changes_neither_its_term_nor_anybody_elses(new_replica):
    replica = new_replica(pre_vote=True, hard_state=HardState(3, 2, 0))
    replica.node.campaign()
    requests = replica.work()
    assert {(m.kind, m.term) for m in requests} == {(K.PRE_VOTE, 4)}
    assert (replica.state.term, replica.state.vote) == (3, 2)
    asked = new_replica(peer_id=2, pre_vote=True, hard_state=HardState(3, 1, 0))
    (answer,) = asked.receive(K.PRE_VOTE, 1, term=4)
    assert (answer.kind, answer.term, answer.rejected) == (K.PRE_VOTE_RESP, 4, False)
    assert (asked.state.term, asked.state.vote) == (3, 1)


def test_thesis_9_6_a_quorum_of_pre_votes_begins_the_election(new_replica):
    replica = new_replica(pre_vote=True)
    replica.node.campaign()
    replica.work()
    sent = replica.receive(K.PRE_VOTE_RESP, 2, term=1)
    assert {(m.kind, m.term) for m in sent} == {(K.VOTE, 1)}
    assert replica.state.role is Role.CANDIDATE


def test_thesis_10_2_1_an_entry_may_commit_before_the_leader_holds_it_durably():
    log = MemoryLog(RaftSnapshot(1, 1, configuration_of(frozenset({1, 2, 3}))))
    options = RaftOptions(1, storage=StorageMode.MESSAGES, pre_vote=False, check_quorum=False)
    node = RaftNode(options, log, applied_index=1)
    node.campaign()
    for response in node.ready().storage_append.responses:
        node.step(response)
    node.step(Message(K.VOTE_RESP, 1, 2, 1))
    ready = node.ready()
    assert [m.kind for m in ready.messages] == [K.APP, K.APP]
    node.step(Message(K.APP_RESP, 1, 2, 1, index=2))
    assert node.status.commit_index == 1
    node.step(Message(K.APP_RESP, 1, 3, 1, index=2))
    assert node.status.commit_index == 2
    assert log.last_index == 1
    # It is applied only when it is durable here too.
    assert node.ready().storage_apply is None
    log.put(ready.storage_append.entries)
    for response in ready.storage_append.responses:
        node.step(response)
    assert node.ready().storage_apply.entries == ready.entries
