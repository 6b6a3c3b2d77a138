"""One Paxos replica whose peers the test plays: acceptance, seals, elections, invariants."""

from __future__ import annotations

from pathlib import Path

import pytest

import onceflow_consensus
from harness.paxos_acceptors import Acceptors, entries, kinds
from onceflow_consensus.errors import (
    ConfChangeRefused,
    DropReason,
    InvalidOptions,
    InvariantViolation,
    MessageRefused,
    ProposalDropped,
)
from onceflow_consensus.paxos.acceptor import install_snapshot
from onceflow_consensus.paxos.elections import BallotElection
from onceflow_consensus.paxos.messages import NO_BALLOT, Ballot, PaxosKind, PaxosMessage
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.proposer import _open
from onceflow_consensus.paxos.roles import Cause, Phase, next_phase, phase_diagram
from onceflow_consensus.paxos.state import Promise
from onceflow_consensus.raft.confchange import (
    ChangeOp,
    ConfChange,
    SingleChange,
    encode_conf_change,
)
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    EntryId,
    EntryKind,
    HardState,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import RaftOptions, ReadMode, StorageMode
from onceflow_consensus.raft.progress import ProgressState
from onceflow_consensus.testing.memory_log import MemoryLog

K = PaxosKind


def test_what_waited_for_the_window_is_sent_with_the_decision():
    replica = Acceptors(max_inflight_messages=1).lead()
    replica.node.propose(b"a")
    replica.node.propose(b"b")
    (first,) = replica.work()
    (second,) = replica.accepted(2, index=3)
    assert [m.kind for m in (first, second)] == [K.ACCEPT, K.ACCEPT]
    assert (second.index, second.commit_index) == (3, 3)


def test_one_that_was_probed_is_told_what_was_decided_meanwhile():
    replica = Acceptors().lead()
    replica.promise(3)
    replica.node.propose(b"a")
    replica.work()
    replica.node.report(3, Report.UNREACHABLE)
    for peer in (2, 3):
        replica.answers(peer)
    replica.node.tick(8)
    replica.work()
    assert {m.to for m in replica.accepted(2)} == {2}
    assert replica.accepted(3, index=0) == []
    (told,) = replica.accepted(3)
    assert (told.kind, told.to, told.commit_index) == (K.DECIDE, 3, 3)


def test_nothing_is_asked_of_one_for_whom_there_is_no_snapshot_yet():
    replica = Acceptors((1, 1, 1), hard=HardState(1, 9, 4))
    replica.work()
    replica.log.compact(4)
    replica.log.newest_snapshot = lambda: None
    replica.prepare()
    replica.promise(2)
    replica.promise(3, (1, 4))
    sent = replica.accepted(3)
    assert {m.to for m in sent} == {3}
    for peer in (2, 3):
        replica.answers(peer)
    replica.node.tick(8)
    assert {m.to for m in replica.work()} == {3}


def test_one_whose_window_is_full_of_what_was_lost_and_is_compacted_gets_a_snapshot():
    replica = Acceptors(max_inflight_messages=1).lead()
    replica.promise(3)
    replica.node.propose(b"a")
    replica.work()
    replica.accepted(2)
    replica.log.compact(3)
    members = configuration_of(frozenset({1, 2, 3}))
    replica.log.newest_snapshot = lambda: RaftSnapshot(3, replica.state.promised.number, members)
    for peer in (2, 3):
        replica.answers(peer)
    replica.node.tick(8)
    told = [message for message in replica.work() if message.to == 3]
    assert K.SNAP in kinds(told)


def test_who_leads_does_not_take_over_again_and_heartbeats_keep_their_interval():
    replica = Acceptors(heartbeat_ticks=2).lead()
    ballot = replica.state.promised
    replica.node.campaign()
    assert replica.state.promised == ballot
    replica.answers(2)
    replica.node.tick(8)
    assert not replica.node.has_ready()
    replica.node.tick(8)
    assert replica.node.has_ready()


def test_an_acceptor_takes_what_follows_and_says_what_it_misses():
    replica = Acceptors((2, 2))
    (accepted,) = replica.receive(
        K.ACCEPT, 2, 5, log_term=2, index=3, entries=entries((5, 4)), commit_index=3
    )
    assert (accepted.kind, accepted.index, accepted.rejected) == (K.ACCEPTED, 4, False)
    assert replica.node.status.raft_leader == 2
    assert replica.state.log.commit_index == 3
    (missed,) = replica.receive(K.DECIDE, 2, log_term=5, index=9, commit_index=9)
    assert (missed.rejected, missed.index, missed.reject_hint) == (True, 9, 4)
    assert replica.receive(K.DECIDE, 2, log_term=5, index=4, commit_index=4) == []
    assert replica.state.log.commit_index == 4
    (late,) = replica.receive(K.ACCEPT, 2, log_term=1, index=1, entries=entries((2, 2)))
    assert (late.index, late.rejected) == (4, False)
    with pytest.raises(MessageRefused):
        replica.receive(K.ACCEPT, 2, log_term=5, index=4, entries=entries((6, 5)))


def test_what_conflicts_is_replaced_and_what_agrees_is_kept():
    replica = Acceptors((2, 2, 3))
    replica.receive(K.ACCEPT, 2, 5, log_term=1, index=1, entries=entries((2, 2)))
    assert replica.terms() == [2, 2, 3]
    replica.receive(K.ACCEPT, 2, 5, log_term=2, index=2, entries=entries((4, 3)))
    assert replica.terms() == [2, 4]


def test_snapshots_are_taken_if_they_bring_something_and_know_this_replica():
    members = configuration_of(frozenset({1, 2, 3}))
    replica = Acceptors((2, 2))
    (told,) = replica.receive(K.SNAP, 2, 5, raft_snapshot=RaftSnapshot(1, 1, members))
    assert told.index == 1
    strangers = configuration_of(frozenset({2, 3}))
    (told,) = replica.receive(K.SNAP, 2, raft_snapshot=RaftSnapshot(9, 2, strangers))
    assert told.index == 1
    (told,) = replica.receive(K.SNAP, 2)
    assert told.index == 1
    (told,) = replica.receive(K.SNAP, 2, raft_snapshot=RaftSnapshot(2, 2, members))
    assert (told.index, replica.terms()) == (2, [2, 2])
    (told,) = replica.receive(K.SNAP, 2, raft_snapshot=RaftSnapshot(9, 4, members))
    assert (told.index, replica.state.log.first_index) == (9, 10)


def test_acceptors_are_sent_what_they_lack_and_stepped_back_to_when_something_was_lost():
    replica = Acceptors().lead()
    replica.node.propose(b"a")
    (accept,) = replica.work()
    assert (accept.kind, accept.to, accept.index) == (K.ACCEPT, 2, 2)
    replica.node.propose(b"b")
    replica.work()
    (again,) = replica.accepted(2, index=3, rejected=True, reject_hint=2, log_term=2)
    assert (again.kind, again.index, len(again.entries)) == (K.ACCEPT, 2, 2)
    assert replica.accepted(2, index=3, rejected=True, reject_hint=2) == []
    replica.accepted(2)
    assert replica.state.log.commit_index == 4
    # An answer of an acceptor without a promise of this ballot raises nothing further.
    assert replica.accepted(2, index=2) == []


def test_a_probe_without_entries_asks_for_the_position():
    replica = Acceptors().lead()
    replica.node.report(2, Report.UNREACHABLE)
    assert replica.state.tracker.progress[2].state is ProgressState.PROBE
    for peer in (2, 3):
        replica.answers(peer)
    replica.node.tick(8)
    sent = replica.work()
    asked = [m for m in sent if m.to == 2]
    assert [(m.kind, m.index, m.entries) for m in asked] == [(K.ACCEPT, 2, ())]
    (again,) = replica.accepted(2, index=2, rejected=True, reject_hint=2)
    assert (again.kind, again.index) == (K.ACCEPT, 2)
    assert [m.to for m in sent if m.kind is K.PREPARE] == [3]
    replica.node.report(9, Report.UNREACHABLE)
    replica.node.report(9, Report.SNAPSHOT_FAILED)


def test_a_snapshot_goes_to_who_is_heard_and_is_reported_on():
    replica = Acceptors((1, 1, 1), hard=HardState(1, 9, 4))
    members = configuration_of(frozenset({1, 2, 3}))
    replica.work()
    replica.log.compact(4)
    replica.log.newest_snapshot = lambda: None
    replica.prepare()
    for peer in (2, 3):
        replica.answers(peer)
    assert replica.promise(2) == []
    assert replica.state.phase is Phase.ACCEPT
    replica.log.newest_snapshot = lambda: RaftSnapshot(4, 1, members)
    replica.node.tick(8)
    (snap,) = [m for m in replica.work() if m.kind is K.SNAP]
    progress = replica.state.tracker.progress[2]
    assert (snap.to, progress.state) == (2, ProgressState.SNAPSHOT)
    replica.node.tick(8)
    assert not [m for m in replica.work() if m.to == 2 and m.kind is K.ACCEPT]
    replica.node.report(2, Report.SNAPSHOT_FAILED)
    assert progress.next_index == 2
    replica.node.tick(8)
    replica.work()
    replica.node.report(2, Report.SNAPSHOT_DELIVERED)
    assert (progress.state, progress.next_index) == (ProgressState.PROBE, 5)
    replica.accepted(2, index=4)
    assert progress.state is ProgressState.REPLICATE


def test_a_snapshot_that_arrived_needs_no_report():
    replica = Acceptors((1, 1, 1), hard=HardState(1, 9, 4))
    replica.work()
    replica.log.compact(4)
    members = configuration_of(frozenset({1, 2, 3}))
    replica.log.newest_snapshot = lambda: RaftSnapshot(4, 1, members)
    replica.prepare()
    replica.answers(2)
    (snap,) = replica.promise(2)
    assert snap.kind is K.SNAP
    progress = replica.state.tracker.progress[2]
    replica.accepted(2, index=2)
    assert progress.state is ProgressState.SNAPSHOT
    replica.accepted(2, index=4)
    assert progress.state is ProgressState.REPLICATE


def test_only_an_entry_of_the_own_ballot_is_decided_by_counting():
    replica = Acceptors((1,))
    replica.prepare()
    replica.promise(2, (1, 2))
    assert replica.state.log.commit_index == 1
    replica.accepted(2, index=2)
    assert replica.state.log.commit_index == 1
    replica.accepted(2, index=3)
    assert replica.state.log.commit_index == 3


def test_a_log_that_was_longer_before_does_not_count_as_having_accepted():
    replica = Acceptors((2, 2, 2, 2), hard=HardState(3, 9, 1))
    replica.prepare()
    message = PaxosMessage(
        K.PROMISE, 2, 1, 4, log_term=3, index=2, commit_index=1, entries=entries((3, 2))
    )
    replica.node.step(message)
    assert replica.terms() == [3, 4]
    replica.node.step(PaxosMessage(K.ACCEPTED, 2, 1, 4, index=3))
    assert replica.state.log.commit_index == 1
    replica.work()
    assert replica.state.log.commit_index == 3


def test_nothing_is_proposed_after_a_membership_change_until_it_is_applied():
    replica = Acceptors().lead()
    replica.node.propose_conf_change(ConfChange((SingleChange(ChangeOp.ADD_LEARNER, 4),)))
    replica.work()
    for propose in (
        lambda: replica.node.propose(b"x"),
        lambda: replica.node.propose_conf_change(ConfChange()),
    ):
        with pytest.raises(ProposalDropped) as dropped:
            propose()
        assert dropped.value.reason is DropReason.RECONFIGURING
    sent = replica.accepted(2)
    assert 4 in {m.to for m in sent if m.kind is K.PREPARE}
    replica.node.propose(b"x")


def test_a_seal_that_a_new_proposer_finds_holds_for_it_as_well():
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.ADD_LEARNER, 4),)))
    replica = Acceptors()
    replica.prepare()
    change = Entry(1, 2, EntryKind.CONF_CHANGE_V2, data)
    replica.promise(2, (1, 2), entries=(change,))
    assert replica.state.seal_index == 2
    with pytest.raises(ProposalDropped):
        replica.node.propose(b"x")
    replica.accepted(2)
    replica.node.propose(b"x")


def test_a_change_is_taken_at_the_end_of_a_proposal_only():
    replica = Acceptors().lead()
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.ADD_LEARNER, 4),)))
    change = Entry(kind=EntryKind.CONF_CHANGE_V2, data=data)
    replica.receive(K.PROPOSE, 2, 0, entries=(change, Entry(data=b"x")))
    kept = replica.state.log.slice(3, 5, 10**6)
    assert [(entry.kind, entry.data) for entry in kept] == [
        (EntryKind.NORMAL, b""),
        (EntryKind.NORMAL, b"x"),
    ]


def test_without_validation_a_change_that_does_not_fit_is_refused_when_it_is_applied():
    replica = Acceptors(validate_conf_changes=False).lead()
    replica.node.propose_conf_change(ConfChange())
    with pytest.raises(ConfChangeRefused):
        replica.accepted(2)


def test_a_change_that_a_snapshot_overtook_is_not_applied():
    replica = Acceptors()
    assert replica.node.apply_conf_change(Entry(1, 1, EntryKind.CONF_CHANGE_V2)) is None


def test_a_transfer_ends_when_its_target_is_no_voter_any_more():
    replica = Acceptors().lead()
    replica.node.propose_conf_change(ConfChange((SingleChange(ChangeOp.REMOVE, 3),)))
    replica.work()
    replica.node.transfer_leadership(3)
    assert replica.node.status.transferee == 3
    replica.node.transfer_leadership(3)
    replica.accepted(2)
    assert replica.node.status.transferee == 0
    replica.node.transfer_leadership(9)
    assert replica.node.status.transferee == 0
    replica.node.transfer_leadership(2)
    replica.node.transfer_leadership(1)
    assert replica.node.status.transferee == 0


def test_a_wish_for_the_lead_goes_nowhere_while_nobody_leads():
    replica = Acceptors()
    replica.node.transfer_leadership(1)
    assert replica.work() == []


def test_what_a_peer_that_follows_a_dead_ballot_refuses_is_overcome_by_a_higher_one():
    replica = Acceptors().lead()
    ballot = replica.state.promised
    for _ in range(9):
        replica.answers(2, elected=ballot)
        replica.answers(3, elected=Ballot(9, 7), is_content=False)
        replica.node.tick(6)
        replica.work()
        if replica.state.promised != ballot:
            break
    assert replica.state.promised == Ballot(10, 1)


def test_one_that_leads_rests_while_a_higher_ballot_is_led_by_somebody():
    replica = Acceptors().lead()
    ballot = replica.state.promised
    for _ in range(12):
        replica.answers(2, elected=ballot)
        replica.answers(3, elected=Ballot(9, 7))
        replica.node.tick(6)
        replica.work()
    assert replica.state.promised == ballot
    assert replica.state.phase is Phase.ACCEPT


def test_late_and_foreign_heartbeats_prove_nothing():
    replica = Acceptors()
    elections = replica.state.elections
    replica.node.tick(8)
    replica.receive(K.HEARTBEAT_REPLY, 2, 0, index=1)
    assert elections.is_heard(2)
    assert elections.elected == Ballot(1, 9)
    fresh = BallotElection(1, NO_BALLOT, 4)
    fresh.observe(Ballot(0, 3))
    assert fresh.elected == NO_BALLOT
    replica.receive(K.HEARTBEAT_REPLY, 2, 0, index=0)
    replica.receive(K.HEARTBEAT_REPLY, 3, 0, index=5)
    assert not elections.is_heard(3)
    for _ in range(4):
        replica.node.tick(8)
    assert not elections.is_heard(2)
    replica.work()
    replica.node.step(PaxosMessage(K.HEARTBEAT, 9, 1, commit_index=0))
    assert not replica.node.has_ready()
    # It knows what this replica does not: it may have been added since.
    replica.node.step(PaxosMessage(K.HEARTBEAT, 9, 1, commit_index=1))
    assert kinds(replica.node.ready().messages) == [K.HEARTBEAT_REPLY]
    replica.node.advance()
    with pytest.raises(MessageRefused):
        replica.node.step(PaxosMessage(K.HEARTBEAT_REPLY, 9, 1))


def test_the_readme_shows_the_diagram_of_the_table():
    readme = Path(onceflow_consensus.__file__).parents[1] / "README.md"
    assert f"```mermaid\n{phase_diagram()}\n```" in readme.read_text(encoding="utf-8")


def test_an_option_that_the_engine_does_not_have_is_refused():
    with pytest.raises(InvalidOptions):
        PaxosNode(RaftOptions(1, read_mode=ReadMode.LEASE), MemoryLog())
    assert NO_BALLOT < Ballot(1, 1) < Ballot(1, 2) < Ballot(2, 1)


def open_too_early(replica):
    replica.prepare()
    replica.state.proposal.promises[2] = Promise(EntryId(1, 9), 1)
    _open(replica.state)


def install_while_open(replica):
    replica.lead()
    members = configuration_of(frozenset({1, 2, 3}))
    install_snapshot(replica.state, RaftSnapshot(9, 9, members))


def take_two(replica):
    replica.node.campaign()
    replica.node.ready()
    replica.node.ready()


@pytest.mark.parametrize(
    ("invariant_id", "breaks"),
    [
        ("INV-PAXOS-1", lambda replica: next_phase(Phase.FOLLOW, Cause.PREPARED)),
        ("INV-PAXOS-2", lambda replica: Acceptors(hard=HardState(1, 1, 7))),
        ("INV-PAXOS-3", lambda replica: replica.state.post(PaxosMessage(K.PREPARE, 1, 2, 77))),
        ("INV-PAXOS-3", lambda replica: replica.state.post(PaxosMessage(K.PROMISE, 1, 2, 77))),
        ("INV-PAXOS-4", lambda replica: replica.state.post(PaxosMessage(K.REFUSE, 1, 1))),
        ("INV-PAXOS-5", lambda replica: replica.state.promise(Cause.TAKE_OVER, Ballot(1, 1))),
        ("INV-PAXOS-6", open_too_early),
        ("INV-PAXOS-7", install_while_open),
        ("INV-PAXOS-8", lambda replica: replica.node.propose()),
        ("INV-PAXOS-9", take_two),
        ("INV-PAXOS-9", lambda replica: Acceptors(storage=StorageMode.MESSAGES).node.advance()),
    ],
)  # fmt: skip
def test_each_invariant_stops_the_replica(invariant_id, breaks):
    with pytest.raises(InvariantViolation, match=f"^{invariant_id}:"):
        breaks(Acceptors())
