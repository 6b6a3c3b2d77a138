"""Membership changes as they are applied: leaving by itself, stepping down, smaller quorums."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import ConfChangeRefusal, ConfChangeRefused
from onceflow_consensus.raft.confchange import (
    ChangeOp,
    ConfChange,
    SingleChange,
    encode_conf_change,
)
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.roles import Role

K = MessageKind


def changes(text):
    return ConfChange(
        tuple(SingleChange(ChangeOp(word[0]), int(word[1:])) for word in text.split())
    )


def leading(new_replica, **options):
    replica = new_replica(**options)
    replica.become_leader()
    for peer_id in sorted(replica.state.tracker.voters - {1}):
        replica.acknowledge(peer_id)
    return replica


def agree(replica, change):
    replica.node.propose_conf_change(change)
    sent = replica.work()
    for peer_id in sorted(replica.state.tracker.voters - {1}):
        sent += replica.acknowledge(peer_id)
    return sent


def test_a_joint_configuration_is_left_by_itself_when_it_is_applied(new_replica):
    replica = leading(new_replica)
    agree(replica, changes("v4 v5"))
    assert replica.state.tracker.configuration.auto_leave
    assert replica.state.log.unstable.entries == []
    last = replica.state.log.last_index
    for peer_id in (2, 3, 4):
        replica.acknowledge(peer_id, last)
    assert replica.state.tracker.configuration == configuration_of(frozenset({1, 2, 3, 4, 5}))


def test_leaving_waits_for_a_transfer_to_end_and_is_tried_again(new_replica):
    replica = leading(new_replica)
    replica.node.propose_conf_change(changes("v4 v5"))
    replica.work()
    replica.node.transfer_leadership(3)
    joint_index = replica.state.log.last_index
    replica.acknowledge(2)
    assert replica.state.log.last_index == joint_index
    for _ in range(10):
        replica.node.tick(10)
    replica.work()
    replica.node.propose(b"anything")
    replica.work()
    for peer_id in (2, 3):
        replica.acknowledge(peer_id)
    kinds = [entry.kind for entry in replica.state.log.slice(joint_index + 1, joint_index + 3, 999)]
    assert kinds == [EntryKind.NORMAL, EntryKind.CONF_CHANGE_V2]


@pytest.mark.parametrize("text", ["r1", "l1"])
@pytest.mark.parametrize(("steps_down", "role"), [(True, Role.FOLLOWER), (False, Role.LEADER)])
def test_a_leader_that_is_no_voter_any_more_steps_down_if_told_so(
    new_replica, text, steps_down, role
):
    replica = leading(new_replica, step_down_on_removal=steps_down)
    agree(replica, changes(text))
    assert replica.state.role is role
    assert not replica.state.is_promotable
    replica.node.campaign()
    assert replica.state.role is role


def test_removing_a_voter_can_commit_what_waited(new_replica):
    replica = new_replica(voters=(1, 2))
    replica.become_leader()
    replica.acknowledge(2)
    replica.node.propose_conf_change(changes("r2"))
    replica.node.propose(b"waits for two")
    replica.work()
    replica.acknowledge(2, 2)
    assert replica.state.tracker.voters == {1}
    assert replica.state.log.commit_index == 3


def test_a_newcomer_is_sent_what_there_is(new_replica):
    replica = leading(new_replica)
    sent = agree(replica, changes("v4"))
    assert [m.to for m in sent if m.kind is K.APP and m.to == 4] != []


def test_a_transfer_to_a_removed_voter_is_given_up(new_replica):
    replica = leading(new_replica)
    replica.node.propose_conf_change(changes("r3"))
    replica.node.transfer_leadership(3)
    replica.work()
    assert replica.node.status.transferee == 3
    replica.acknowledge(2)
    assert replica.node.status.transferee == 0
    assert replica.state.tracker.voters == {1, 2}


def test_a_transfer_to_a_remaining_voter_goes_on(new_replica):
    replica = leading(new_replica)
    replica.node.propose_conf_change(changes("r3"))
    replica.node.transfer_leadership(2)
    replica.work()
    replica.acknowledge(2)
    assert replica.node.status.transferee == 2


def entry_at(index, text):
    data = encode_conf_change(changes(text) if text else ConfChange())
    return Entry(1, index, EntryKind.CONF_CHANGE_V2, data)


def test_a_follower_takes_changes_without_acting_on_them(new_replica):
    replica = new_replica(peer_id=2)
    four = configuration_of(frozenset({1, 2, 3, 4}))
    assert replica.node.apply_conf_change(entry_at(1, "v4")) == four
    assert replica.work() == []


def test_a_change_that_does_not_fit_when_applied_leaves_all_as_it_is(new_replica):
    replica = new_replica()
    before = replica.state.tracker.configuration
    with pytest.raises(ConfChangeRefused) as caught:
        replica.node.apply_conf_change(entry_at(1, ""))
    assert caught.value.refusal is ConfChangeRefusal.NOT_JOINT
    assert replica.state.tracker.configuration == before


def test_a_change_that_a_snapshot_has_overtaken_is_not_applied(new_replica):
    replica = new_replica([1], hard_state=HardState(1, 0, 0))
    members = configuration_of(frozenset({1, 2}))
    replica.node.step(Message(K.SNAP, 1, 2, 1, raft_snapshot=RaftSnapshot(5, 1, members)))
    assert replica.node.apply_conf_change(entry_at(5, "v4")) is None
    assert replica.state.tracker.configuration == members
    assert replica.node.apply_conf_change(entry_at(6, "v3")) == configuration_of(
        frozenset({1, 2, 3})
    )


def test_nobody_campaigns_with_a_committed_change_left_to_apply(new_replica):
    replica = leading(new_replica)
    replica.node.propose(b"x")
    replica.node.propose_conf_change(changes("v4"))
    replica.work()
    state = replica.state
    follower = new_replica(peer_id=2, max_applying_bytes=8)
    entries = state.log.slice(1, state.log.last_index + 1, 10**6)
    follower.node.step(Message(K.APP, 2, 1, 1, entries=entries, commit_index=3))
    follower.node.campaign()
    assert follower.state.role is Role.FOLLOWER
    follower.work()
    follower.node.campaign()
    assert follower.state.role is Role.CANDIDATE


def test_a_snapshot_without_this_replica_is_not_installed(new_replica):
    replica = new_replica()
    strangers = RaftSnapshot(9, 3, configuration_of(frozenset({7, 8})))
    (answer,) = replica.receive(K.SNAP, 2, term=3, raft_snapshot=strangers)
    assert answer.index == 0
    assert replica.state.log.last_index == 0


def test_an_empty_report_of_the_state_machine_changes_nothing(new_replica):
    replica = new_replica()
    replica.node.step(Message(K.STORAGE_APPLY_RESP, 1, 2**64 - 2))
    assert replica.state.cursor.applied_index == 0


def test_a_refusal_that_tells_nothing_usable_only_counts_as_one(new_replica):
    replica = new_replica([1, 1], peer_id=2, hard_state=HardState(1, 0, 0))
    replica.node.campaign()
    replica.work()
    for index, committed in [(9, 0), (1, 1), (1, 1)]:
        replica.receive(K.VOTE_RESP, 3, log_term=1, index=index, rejected=True)
        assert replica.state.log.commit_index == committed
        assert replica.state.role is Role.CANDIDATE


@pytest.mark.parametrize("pre_vote", [True, False])
def test_a_refusal_that_tells_of_a_change_ends_the_campaign_until_it_is_applied(
    new_replica, pre_vote
):
    leader_left = encode_conf_change(changes("r1"))
    follower = new_replica(peer_id=2, pre_vote=pre_vote)
    sent = (Entry(1, 1), Entry(1, 2, EntryKind.CONF_CHANGE_V2, leader_left))
    follower.receive(K.APP, 1, term=1, entries=sent)
    follower.node.campaign()
    follower.work()
    kind = K.PRE_VOTE_RESP if pre_vote else K.VOTE_RESP
    follower.node.step(Message(kind, 2, 3, follower.state.term, log_term=1, index=2, rejected=True))
    assert (follower.state.role, follower.state.log.commit_index) == (Role.FOLLOWER, 2)
    follower.work()
    assert follower.state.tracker.voters == {2, 3}


def test_a_refused_vote_tells_what_is_committed_unless_told_not_to(new_replica):
    for tells, index in [(True, 2), (False, 0)]:
        replica = new_replica([1, 1, 1], hard_state=HardState(1, 3, 2), refusals_tell_commit=tells)
        (answer,) = replica.receive(K.VOTE, 2, term=1, log_term=1, index=3)
        assert (answer.rejected, answer.index, answer.log_term) == (True, index, bool(index))
