"""What the simulator holds against who leads, or wants to: each check passes and fails."""

from __future__ import annotations

import pytest

from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryKind,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.storage import WriteRequest
from onceflow_consensus.testing.simulator.disks import new_disk
from onceflow_consensus.testing.simulator.engines import RULES
from onceflow_consensus.testing.simulator.leadership import (
    check_candidate,
    check_counted,
    check_own_vote,
    check_votes,
)
from onceflow_consensus.testing.simulator.ledger import Ledger, Property, Violation
from onceflow_consensus.testing.simulator.plan import DiskKind, draw_plan

BEGUN = RaftSnapshot(1, 1, configuration_of(frozenset({1, 2, 3})))


def disk_with(*entries, term=1, vote=1, commit_index=1):
    disk = new_disk(DiskKind.PLAIN, BEGUN)
    disk.persist([WriteRequest(entries, HardState(term, vote, commit_index))])
    return disk


def state_on(disk):
    return RaftNode(RaftOptions(1), disk.log, applied_index=1).state


def test_who_leads_needs_the_votes_of_each_half_of_a_joint_configuration():
    voters = JointVoters(frozenset({1, 2, 3}), frozenset({1, 4}))
    check_votes(1, 2, voters, {2, 4})
    with pytest.raises(Violation, match="durable votes of a quorum"):
        check_votes(1, 2, voters, {2, 3})


def test_the_ledger_knows_who_supports_whom():
    ledger = Ledger(1)
    ledger.voted(1, 2, 3)
    ledger.voted(2, 2, 3)
    ledger.voted(4, 2, 5)
    assert ledger.supporters(3, 2) == {1, 2}
    assert ledger.supporters(3, 3) == set()


def test_who_leads_needs_its_own_vote_on_its_disk():
    disk = disk_with(term=2, vote=1)
    check_own_vote(1, 2, disk)
    check_own_vote(1, 1, disk)
    for peer_id, term in ((1, 3), (2, 2)):
        with pytest.raises(Violation, match="its disk says"):
            check_own_vote(peer_id, term, disk)


def test_what_a_leader_counts_has_to_be_durable_where_it_is_held():
    own = disk_with(Entry(1, 2))
    state = state_on(own)
    state.tracker.progress[2].match_index = 2
    check_counted(state, 1, {1: own, 2: disk_with(Entry(1, 2))}, {2})
    # One of a later term may have let go of it since.
    check_counted(state, 1, {1: own, 2: disk_with(term=2)}, {2})
    for other, term in ((disk_with(), 1), (disk_with(Entry(1, 2)), 2)):
        with pytest.raises(Violation) as found:
            check_counted(state, term, {1: own, 2: other}, {2})
        assert found.value.broken is Property.COUNTED


def test_nobody_campaigns_with_a_membership_change_to_apply():
    check_candidate(state_on(disk_with(Entry(1, 2), commit_index=2)))
    change = Entry(1, 2, EntryKind.CONF_CHANGE_V2)
    check_candidate(state_on(disk_with(change)))
    with pytest.raises(Violation, match="left to apply"):
        check_candidate(state_on(disk_with(change, commit_index=2)))


def test_what_was_acknowledged_in_a_term_has_to_be_there_until_a_later_one():
    setup = draw_plan("raft", 0, 1).setup
    holding, without = disk_with(Entry(1, 2)), disk_with()
    rules = RULES["raft"](Ledger(1), {2: holding})
    rules.start(2, setup, holding.log, 1)
    rules.check_acknowledgement(Message(MessageKind.APP_RESP, 1, 2, 1, index=2), holding)
    rules.start(2, setup, holding.log, 1)
    rules.start(2, setup, disk_with(term=2).log, 1)
    with pytest.raises(Violation, match="acknowledged 2 in term 1"):
        rules.start(2, setup, without.log, 1)
