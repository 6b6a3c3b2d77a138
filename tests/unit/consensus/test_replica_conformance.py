"""One suite for every engine: what a group of replicas owes its users, seen through the door."""

from __future__ import annotations

import itertools

import pytest

from harness.replica_group import ELECTION_TICKS, ReplicaGroup
from onceflow_consensus.errors import (
    DropReason,
    InvalidOptions,
    MessageRefused,
    ProposalDropped,
    ReadDropped,
)
from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange, Transition
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.replica import Engine, PeerMessage, Replica, ReplicaReady, start_replica
from onceflow_consensus.testing.memory_log import MemoryLog

ENGINES = list(itertools.product(Engine, StorageMode))


@pytest.fixture(params=ENGINES, ids=lambda pair: f"{pair[0].value}-{pair[1].value}")
def new_group(request):
    engine, storage = request.param

    def make(*arguments, **options):
        return ReplicaGroup(engine, *arguments, storage=storage, **options)

    return make


def change_of(*singles, transition=Transition.AUTO):
    return ConfChange(tuple(SingleChange(ChangeOp(op), peer) for op, peer in singles), transition)


def others_of(group, *peers):
    return [peer for peer in group.peers if peer not in peers]


def test_the_engines_are_named_as_users_name_them():
    assert {engine.value for engine in Engine} == {"raft", "paxos"}
    for engine in Engine:
        replica: Replica = start_replica(engine, RaftOptions(1), MemoryLog())
        assert replica.status.role is Role.FOLLOWER
        with pytest.raises(InvalidOptions):
            start_replica(engine, RaftOptions(peer_id=0), MemoryLog())
    assert PeerMessage is not ReplicaReady


def test_a_lone_voter_elects_itself_and_applies_what_it_is_given(new_group):
    group = new_group((1,))
    group.propose(b"a", b"b")
    group.agree_on(b"ab")
    assert group.replicas[1].status.commit_index == group.replicas[1].status.applied_index


def test_a_group_elects_one_that_leads_and_applies_the_same_everywhere(new_group):
    group = new_group((1, 2, 3, 4, 5))
    first = group.elect()
    for number in range(10):
        group.propose(b"%d" % number)
    group.agree_on(b"0123456789")
    terms = {replica.status.term for replica in group.replicas.values()}
    assert len(terms) == 1
    assert [peer for peer in group.peers if group.leads(peer)] == [first]
    assert {replica.status.raft_leader for replica in group.replicas.values()} == {first}


def test_one_that_leads_and_is_heard_goes_on_leading(new_group):
    group = new_group()
    first = group.elect()
    term = group.replicas[first].status.term
    group.tick(20 * ELECTION_TICKS)
    assert (group.leading(), group.replicas[first].status.term) == (first, term)


def test_a_proposal_elsewhere_is_passed_on(new_group):
    group = new_group()
    follower = others_of(group, group.elect())[0]
    group.propose(b"x", at=follower)
    group.agree_on(b"x")


def test_proposals_are_refused_with_a_reason(new_group):
    group = new_group(forward_proposals=False)
    with pytest.raises(ProposalDropped) as dropped:
        group.replicas[1].propose(b"x")
    assert dropped.value.reason is DropReason.NO_LEADER
    follower = others_of(group, group.elect())[0]
    with pytest.raises(ProposalDropped) as dropped:
        group.replicas[follower].propose(b"x")
    assert dropped.value.reason is DropReason.FORWARDING_DISABLED


def test_what_is_proposed_and_not_applied_is_bounded(new_group):
    group = new_group(max_uncommitted_bytes=10)
    first = group.elect()
    group.tick()
    group.isolate(first)
    replica = group.replicas[first]
    replica.propose(b"a" * 20)
    with pytest.raises(ProposalDropped) as dropped:
        replica.propose(b"b")
    assert dropped.value.reason is DropReason.UNCOMMITTED_BOUND
    assert replica.status.uncommitted_bytes == 20
    group.heal()
    group.agree_on(b"a" * 20)
    assert group.replicas[group.leading()].status.uncommitted_bytes == 0


def test_another_leads_when_the_first_is_gone_and_nothing_is_lost(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    group.crash(first)
    group.until(lambda: group.leading() is not None, ticks=6 * ELECTION_TICKS)
    group.propose(b"b")
    group.agree_on(b"ab")
    group.start(first)
    group.agree_on(b"ab")


def test_one_without_a_quorum_stops_leading_and_what_it_proposed_alone_is_replaced(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    group.agree_on(b"a")
    group.isolate(first)
    group.replicas[first].propose(b"lost")
    group.until(lambda: not group.leads(first), ticks=4 * ELECTION_TICKS)
    group.until(lambda: group.leading() is not None)
    assert group.leading() != first
    group.propose(b"b")
    group.heal()
    group.agree_on(b"ab")


def test_without_a_quorum_nothing_is_decided(new_group):
    group = new_group()
    first = group.elect()
    for peer in others_of(group, first):
        group.crash(peer)
    group.replicas[first].propose(b"x")
    group.tick(10 * ELECTION_TICKS)
    assert group.data(first) == b""
    assert group.leading() is None


@pytest.mark.parametrize("engine", Engine)
def test_nobody_leads_before_its_own_vote_is_durable(engine):
    # It could lose its term in a crash, be elected in it again, and write other entries in it.
    group = ReplicaGroup(engine, storage=StorageMode.MESSAGES)
    group.stalled = {1}
    group.replicas[1].campaign()
    group.settle()
    assert {replica.status.vote for replica in group.replicas.values()} == {1}
    assert not group.leads(1)
    assert group.disks[1].hard_state.term == 0
    group.release()
    assert group.leads(1)


def test_a_group_that_stops_as_a_whole_goes_on_from_its_disks(new_group):
    group = new_group()
    group.propose(b"a")
    group.agree_on(b"a")
    for peer in group.peers:
        group.crash(peer)
    for peer in group.peers:
        group.start(peer)
    group.propose(b"b")
    group.agree_on(b"ab")


def test_reads_see_all_that_was_decided_before_wherever_they_are_asked(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    decided = group.replicas[first].status.commit_index
    for peer in group.peers:
        group.replicas[peer].read_index(b"r%d" % peer)
        group.settle()
        (read,) = group.reads[peer]
        assert read.request_context == b"r%d" % peer
        assert read.index >= decided


def test_reads_before_the_first_decision_of_a_term_wait_for_it(new_group):
    group = new_group((1, 2))
    group.elect()
    group.propose(b"a")
    group.agree_on(b"a")
    first = group.leading()
    other = others_of(group, first)[0]
    decided = group.replicas[first].status.commit_index
    group.replicas[first].transfer_leadership(other)
    group.settle()
    group.replicas[other].read_index(b"r")
    group.until(lambda: group.reads[other])
    assert group.reads[other][0].index > decided


def test_reads_are_never_confirmed_by_one_that_is_cut_off(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    group.isolate(first)
    group.replicas[first].read_index(b"r")
    group.tick(4 * ELECTION_TICKS)
    assert group.reads[first] == []
    with pytest.raises(ReadDropped) as dropped:
        group.replicas[first].read_index(b"r")
    assert dropped.value.reason is DropReason.NO_LEADER


def test_reads_that_wait_are_bounded(new_group):
    group = new_group(max_pending_reads=2)
    replica = group.replicas[group.elect()]
    group.tick()
    replica.read_index(b"1")
    replica.read_index(b"2")
    with pytest.raises(ReadDropped) as dropped:
        replica.read_index(b"3")
    assert dropped.value.reason is DropReason.READ_BOUND


def test_a_newcomer_becomes_a_voter_and_counts(new_group):
    group = new_group((1, 2), newcomers=(3,))
    group.propose(b"a")
    group.change(change_of(("v", 3)))
    group.agree_on(b"a")
    assert group.members(3).voters.incoming == {1, 2, 3}
    group.crash(group.leading())
    group.propose(b"b")
    group.agree_on(b"ab")


def test_a_learner_receives_everything_and_is_promoted(new_group):
    group = new_group((1, 2), learners=(3,))
    group.propose(b"a")
    group.agree_on(b"a")
    assert not group.leads(3)
    group.change(change_of(("v", 3)))
    group.until(lambda: all(3 in group.members(peer).voters.incoming for peer in group.peers))


def test_a_learner_never_leads_nor_helps_to_decide(new_group):
    group = new_group((1, 2), learners=(3,))
    first = group.elect()
    group.crash(others_of(group, first, 3)[0])
    group.replicas[first].propose(b"x")
    group.replicas[3].campaign()
    group.tick(6 * ELECTION_TICKS)
    assert group.data(first) == b""
    assert not group.leads(3)


def test_the_one_that_leads_can_be_removed(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    group.change(change_of(("r", first)))
    rest = others_of(group, first)
    group.until(lambda: group.leading() in rest)
    group.propose(b"b")
    group.agree_on(b"ab", rest)
    assert all(group.members(peer).voters.incoming == set(rest) for peer in rest)
    assert not group.leads(first)


def test_the_last_but_one_voter_can_leave_although_it_leads(new_group):
    group = new_group((1, 2))
    first = group.elect()
    group.change(change_of(("r", first)))
    rest = others_of(group, first)
    group.until(lambda: group.leading() == rest[0])
    group.propose(b"b")
    group.agree_on(b"b", rest)


def test_several_voters_are_replaced_through_a_joint_configuration(new_group):
    group = new_group(newcomers=(4, 5))
    first = group.elect()
    gone = others_of(group, first, 4, 5)
    group.propose(b"a")
    group.change(change_of(("v", 4), ("v", 5), ("r", gone[0]), ("r", gone[1])))
    left = [first, 4, 5]
    group.until(lambda: all(group.members(peer).voters.incoming == set(left) for peer in left))
    group.until(lambda: not any(group.members(peer).is_joint for peer in left))
    group.propose(b"b")
    group.agree_on(b"ab", left)


def test_a_joint_configuration_is_left_by_an_empty_change_if_asked_for(new_group):
    group = new_group(newcomers=(4,))
    group.change(change_of(("v", 4), transition=Transition.EXPLICIT))
    group.until(lambda: all(group.members(peer).is_joint for peer in group.peers))
    group.tick(2 * ELECTION_TICKS)
    assert group.members(1).is_joint
    group.change(ConfChange())
    group.until(lambda: not any(group.members(peer).is_joint for peer in group.peers))


def test_a_change_that_cannot_be_applied_leaves_the_members_as_they_are(new_group):
    group = new_group()
    group.change(change_of(("r", 1), ("r", 2), ("r", 3)))
    group.change(ConfChange())
    group.propose(b"a")
    group.agree_on(b"a")
    assert all(group.members(peer).voters.incoming == {1, 2, 3} for peer in group.peers)


def test_who_lags_behind_what_is_compacted_gets_a_snapshot(new_group):
    group = new_group()
    first = group.elect()
    lagging = others_of(group, first)[0]
    group.crash(lagging)
    for number in range(5):
        group.propose(b"%d" % number)
    group.agree_on(b"01234")
    for peer in group.replicas:
        group.disks[peer].compact_all()
    group.start(lagging)
    group.propose(b"x")
    group.agree_on(b"01234x")
    assert group.disks[lagging].first_index > 1


def test_a_snapshot_that_is_lost_is_sent_again(new_group):
    group = new_group()
    first = group.elect()
    lagging = others_of(group, first)[0]
    group.cut(first, lagging)
    group.propose(b"a")
    group.disks[first].compact_all()
    group.heal()
    group.cuts = {(first, lagging)}
    group.tick(2)
    group.replicas[first].report(lagging, Report.SNAPSHOT_FAILED)
    group.replicas[first].report(lagging, Report.UNREACHABLE)
    group.heal()
    group.agree_on(b"a")


def test_the_lead_is_handed_to_a_chosen_one(new_group):
    group = new_group()
    first = group.elect()
    group.propose(b"a")
    for chosen in others_of(group, first):
        group.replicas[group.leading()].transfer_leadership(chosen)
        group.settle()
        assert group.leading() == chosen
    group.propose(b"b")
    group.agree_on(b"ab")


def test_a_wish_to_lead_is_passed_on(new_group):
    group = new_group()
    chosen = others_of(group, group.elect())[0]
    group.replicas[chosen].transfer_leadership(chosen)
    group.settle()
    assert group.leading() == chosen


def test_a_transfer_that_fails_is_given_up_and_refuses_proposals_meanwhile(new_group):
    group = new_group()
    first = group.elect()
    chosen = others_of(group, first)[0]
    group.cut(first, chosen)
    group.replicas[first].transfer_leadership(chosen)
    assert group.replicas[first].status.transferee == chosen
    with pytest.raises(ProposalDropped) as dropped:
        group.replicas[first].propose(b"x")
    assert dropped.value.reason is DropReason.TRANSFERRING
    group.heal()
    group.tick(3 * ELECTION_TICKS)
    group.propose(b"y")
    group.agree_on(b"y")


def test_answers_of_strangers_and_reports_of_others_are_refused(new_group):
    group = new_group()
    told = []
    group.deliver = told.append
    group.tick(3 * ELECTION_TICKS)
    sample = told[0]
    strangers = {"raft": "MsgAppResp", "paxos": "Accepted"}
    reports = {"raft": "MsgStorageAppendResp", "paxos": "StorageAppendResp"}
    for names, sender in ((strangers, 9), (reports, 2)):
        kind = type(sample.kind)(names[group.engine.value])
        message = type(sample)(kind, sender=sender, to=1, term=1, index=1)
        with pytest.raises(MessageRefused):
            group.replicas[1].step(message)
