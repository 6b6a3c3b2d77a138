"""Dispatch by role and term, ticks, reports of the driver, and what is refused at the door."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import InvalidOptions, InvariantViolation, MessageRefused
from onceflow_consensus.raft import following
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import Entry, HardState, Message, MessageKind, RaftSnapshot
from onceflow_consensus.raft.node import RaftNode, Report
from onceflow_consensus.raft.options import RaftOptions, ReadMode, StorageMode
from onceflow_consensus.raft.progress import ProgressState
from onceflow_consensus.raft.roles import TRANSITIONS, Cause, Role, next_role, state_diagram
from onceflow_consensus.raft.step import HANDLERS
from onceflow_consensus.testing.memory_log import MemoryLog

K = MessageKind


def leading(new_replica, *terms, **options):
    replica = new_replica(terms, **options)
    replica.become_leader()
    for peer_id in (2, 3):
        replica.acknowledge(peer_id)
    return replica


def test_every_role_and_every_cause_stands_in_the_table_and_in_the_diagram():
    assert {role for role, _ in TRANSITIONS} == set(TRANSITIONS.values()) == set(Role)
    assert {cause for _, cause in TRANSITIONS} == set(Cause)
    assert state_diagram().count("-->") == len(TRANSITIONS) + 1


@pytest.mark.parametrize(
    ("role", "cause"),
    [(Role.FOLLOWER, Cause.ELECTED), (Role.LEADER, Cause.CAMPAIGN), (Role.LEADER, Cause.OUTVOTED)],
)
def test_a_change_of_role_outside_the_table_stops_the_replica(role, cause):
    with pytest.raises(InvariantViolation, match="INV-RAFT-1"):
        next_role(role, cause)


def test_every_kind_but_those_of_local_threads_is_handled_by_some_role():
    handled = {kind for handlers in HANDLERS.values() for kind in handlers}
    assert set(HANDLERS) == set(Role)
    assert set(MessageKind) - handled == {K.STORAGE_APPEND, K.STORAGE_APPLY}


@pytest.mark.parametrize("kind", [K.HUP, K.BEAT, K.CHECK_QUORUM, K.UNREACHABLE, K.SNAP_STATUS])
def test_local_events_are_not_taken_from_the_network(new_replica, kind):
    with pytest.raises(MessageRefused, match="only for a replica's own use"):
        new_replica().node.step(Message(kind, 1, 2))


def test_answers_of_strangers_are_refused(new_replica):
    with pytest.raises(MessageRefused, match="outside the configuration"):
        new_replica().node.step(Message(K.APP_RESP, 1, 9, 1))


@pytest.mark.parametrize(
    "sent",
    [
        (Entry(1, 2),),
        (Entry(1, 1), Entry(1, 3)),
        (Entry(1, 1), Entry(0, 2)),
        (Entry(9, 1),),
    ],
    ids=["gap at the front", "gap", "falling term", "term above the message's"],
)
def test_entries_that_do_not_follow_one_another_are_refused(new_replica, sent):
    replica = new_replica()
    with pytest.raises(MessageRefused, match="do not follow"):
        replica.receive(K.APP, 2, term=1, entries=sent)
    assert replica.state.log.last_index == 0


@pytest.mark.parametrize("features", [{"pre_vote": True}, {"check_quorum": True}])
@pytest.mark.parametrize("kind", [K.APP, K.HEARTBEAT])
def test_a_leader_left_behind_learns_the_higher_term(new_replica, features, kind):
    replica = new_replica(hard_state=HardState(5, 0, 0), **features)
    (answer,) = replica.receive(kind, 2, term=3)
    assert (answer.kind, answer.term, answer.index) == (K.APP_RESP, 5, 0)


def test_a_stale_pre_vote_is_refused_in_the_own_term(new_replica):
    replica = new_replica(hard_state=HardState(5, 0, 0), pre_vote=True)
    (answer,) = replica.receive(K.PRE_VOTE, 2, term=3)
    assert (answer.kind, answer.term, answer.rejected) == (K.PRE_VOTE_RESP, 5, True)


def test_a_refused_pre_vote_of_a_higher_term_ends_the_campaign(new_replica):
    replica = new_replica(pre_vote=True)
    replica.node.campaign()
    replica.work()
    replica.receive(K.PRE_VOTE_RESP, 2, term=8, rejected=True)
    assert (replica.state.role, replica.state.term) == (Role.FOLLOWER, 8)


def test_a_pre_candidate_that_is_outvoted_follows_nobody(new_replica):
    replica = new_replica(pre_vote=True)
    replica.receive(K.HEARTBEAT, 3, term=1)
    replica.node.campaign()
    assert replica.state.raft_leader == 0
    replica.work()
    for peer_id in (2, 3):
        replica.receive(K.PRE_VOTE_RESP, peer_id, term=1, rejected=True)
    assert (replica.state.role, replica.state.raft_leader) == (Role.FOLLOWER, 0)


def test_a_leader_ignores_a_wish_to_campaign_and_to_forget_itself(new_replica):
    replica = leading(new_replica)
    replica.node.campaign()
    replica.node.forget_leader()
    assert (replica.state.role, replica.state.raft_leader) == (Role.LEADER, 1)


@pytest.mark.parametrize(("read_mode", "believed"), [(ReadMode.SAFE, 0), (ReadMode.LEASE, 2)])
def test_a_leader_is_not_forgotten_while_its_lease_counts(new_replica, read_mode, believed):
    replica = new_replica(check_quorum=True, read_mode=read_mode)
    replica.receive(K.HEARTBEAT, 2, term=1)
    replica.node.forget_leader()
    assert replica.state.raft_leader == believed


def test_the_timeout_of_a_period_can_be_fixed_from_outside(new_replica):
    replica = new_replica()
    replica.node.set_election_timeout(2)
    replica.node.tick(10)
    assert replica.state.role is Role.FOLLOWER
    replica.node.tick(10)
    assert replica.state.role is Role.CANDIDATE


def test_heartbeats_come_at_their_own_interval(new_replica):
    replica = leading(new_replica, heartbeat_ticks=2)
    replica.node.tick(10)
    assert replica.work() == []
    replica.node.tick(10)
    assert [message.kind for message in replica.work()] == [K.HEARTBEAT, K.HEARTBEAT]


def test_an_unreachable_follower_is_probed(new_replica):
    replica = leading(new_replica)
    progress = replica.node.status.progress
    assert progress[2].state is ProgressState.REPLICATE
    for _ in range(2):
        replica.node.report(2, Report.UNREACHABLE)
        assert progress[2].state is ProgressState.PROBE
    replica.node.report(9, Report.UNREACHABLE)
    replica.node.report(9, Report.SNAPSHOT_FAILED)


@pytest.mark.parametrize(
    ("report", "next_index"), [(Report.SNAPSHOT_DELIVERED, 12), (Report.SNAPSHOT_FAILED, 1)]
)
def test_the_report_on_a_snapshot_decides_where_probing_goes_on(new_replica, report, next_index):
    replica = new_replica(begin=11)
    replica.become_leader()
    replica.acknowledge(2)
    replica.receive(K.HEARTBEAT_RESP, 3)
    replica.receive(K.APP_RESP, 3, index=11, rejected=True, reject_hint=1)
    progress = replica.node.status.progress[3]
    assert progress.state is ProgressState.SNAPSHOT
    replica.node.report(3, report)
    assert (progress.state, progress.next_index, progress.is_paused) == (
        ProgressState.PROBE,
        next_index,
        True,
    )
    replica.node.report(3, report)
    assert progress.next_index == next_index


def test_a_snapshot_is_not_sent_to_the_silent_nor_when_there_is_none(new_replica):
    replica = new_replica(begin=11)
    replica.become_leader()
    replica.acknowledge(2)
    replica.log.newest_snapshot = lambda: None
    sent = replica.receive(K.APP_RESP, 3, index=11, rejected=True, reject_hint=1)
    assert sent == []
    progress = replica.node.status.progress[3]
    progress.is_recently_active = False
    replica.node.propose(b"x")
    assert [message.to for message in replica.work()] == [2]
    assert progress.state is ProgressState.PROBE


def test_a_follower_that_passes_its_snapshot_is_replicated_to(new_replica):
    replica = new_replica(begin=11)
    replica.become_leader()
    replica.acknowledge(2)
    replica.receive(K.APP_RESP, 3, index=11, rejected=True, reject_hint=1)
    progress = replica.node.status.progress[3]
    replica.acknowledge(3, 5)  # still below what the log begins with
    assert progress.state is ProgressState.SNAPSHOT
    replica.acknowledge(3, 11)
    assert progress.state is ProgressState.REPLICATE


def test_answers_about_members_that_left_meanwhile_are_dropped(new_replica):
    replica = leading(new_replica)
    for kind in (K.APP_RESP, K.HEARTBEAT_RESP):
        handler = HANDLERS[Role.LEADER][kind]
        handler(replica.state, Message(kind, 1, 9, 1, index=1))
    assert replica.work() == []


def test_a_stale_rejection_is_not_answered(new_replica):
    replica = leading(new_replica)
    assert replica.receive(K.APP_RESP, 2, index=0, rejected=True) == []


def test_a_replica_writes_to_itself_only_what_is_durable(new_replica):
    state = new_replica().state
    with pytest.raises(InvariantViolation, match="INV-RAFT-8"):
        state.post(Message(K.APP, 1, 1, 0))
    for kind, term in [(K.APP, 7), (K.VOTE, 0), (K.PROP, 1)]:
        with pytest.raises(InvariantViolation, match="INV-RAFT-9"):
            state.post(Message(kind, 2, 1, term))
    with pytest.raises(InvariantViolation, match="INV-RAFT-16"):
        state.become_follower(Cause.HIGHER_TERM, -1, 0)


def test_a_late_report_about_an_entry_that_was_replaced_and_put_back_is_not_believed():
    """The writer still has to overwrite the entry it reports before it writes it once more."""
    log = MemoryLog(RaftSnapshot(1, 1, configuration_of(frozenset({1, 2, 3}))))
    node = RaftNode(RaftOptions(1, storage=StorageMode.MESSAGES), log, applied_index=1)
    works = []
    for term, sender, entry in [(1, 2, Entry(1, 2)), (2, 3, Entry(2, 2)), (3, 2, Entry(1, 2))]:
        append = Message(K.APP, 1, sender, term, index=1, log_term=1, entries=(entry,))
        node.step(append)
        works.append(node.ready().storage_append)
    for number, work in enumerate(works):
        log.put(work.entries)
        assert node.state.log.unstable.entries == [Entry(1, 2)]
        (report,) = [item for item in work.responses if item.kind is K.STORAGE_APPEND_RESP]
        node.step(report)
        assert bool(node.state.log.unstable.entries) is (number < 2)


def test_entries_that_are_there_already_are_not_written_again(new_replica):
    replica = new_replica([1, 1], hard_state=HardState(1, 0, 0))
    sent = (Entry(1, 1), Entry(1, 2), Entry(1, 3))
    replica.node.step(Message(K.APP, 1, 2, 1, entries=sent))
    assert replica.node.ready().entries == sent[2:]


def test_only_a_follower_installs_a_snapshot(new_replica):
    replica = leading(new_replica)
    received = RaftSnapshot(50, 1, configuration_of(frozenset({1, 2, 3})))
    with pytest.raises(InvariantViolation, match="INV-RAFT-10"):
        following._restore(replica.state, received)


def test_an_empty_snapshot_is_never_sent(new_replica):
    replica = new_replica(begin=11)
    replica.become_leader()
    replica.acknowledge(2)
    replica.log.newest_snapshot = RaftSnapshot
    with pytest.raises(InvariantViolation, match="INV-RAFT-15"):
        replica.receive(K.APP_RESP, 3, index=11, rejected=True, reject_hint=1)


@pytest.mark.parametrize("commit_index", [1, 9])
def test_a_stored_commit_index_outside_the_stored_log_is_a_violation(commit_index):
    log = MemoryLog(RaftSnapshot(2, 1, configuration_of(frozenset({1}))))
    log.hard_state = HardState(1, 0, commit_index)
    with pytest.raises(InvariantViolation, match="INV-RAFT-13"):
        RaftNode(RaftOptions(1), log)


def test_a_state_machine_ahead_of_the_stored_commit_index_is_believed(new_replica):
    log = new_replica([1, 1, 1], hard_state=HardState(1, 0, 1)).log
    status = RaftNode(RaftOptions(1), log, applied_index=2).status
    assert (status.commit_index, status.applied_index) == (2, 2)
    with pytest.raises(InvariantViolation, match="INV-RAFT-13"):
        RaftNode(RaftOptions(1), log, applied_index=4)


def test_one_ready_is_finished_before_the_next_is_taken(new_replica):
    replica = new_replica(voters=(1,))
    replica.node.campaign()
    replica.node.ready()
    with pytest.raises(InvariantViolation, match="INV-RAFT-11"):
        replica.node.ready()


def test_with_local_threads_there_is_no_advance():
    log = MemoryLog(RaftSnapshot(2, 1, configuration_of(frozenset({1}))))
    node = RaftNode(RaftOptions(1, storage=StorageMode.MESSAGES), log, applied_index=2)
    with pytest.raises(InvariantViolation, match="INV-RAFT-11"):
        node.advance()


@pytest.mark.parametrize(
    "wrong",
    [
        {"peer_id": 0},
        {"peer_id": 2**64 - 1},
        {"heartbeat_ticks": 0},
        {"election_ticks": 1},
        {"max_inflight_messages": 0},
        {"max_inflight_bytes": 10},
        {"max_uncommitted_bytes": 0},
        {"max_applying_bytes": 0},
        {"max_pending_reads": 0},
        {"check_quorum": False, "read_mode": ReadMode.LEASE},
    ],
)
def test_options_that_cannot_work_are_refused(wrong):
    with pytest.raises(InvalidOptions):
        RaftOptions(**{"peer_id": 1, **wrong})
