"""One Paxos replica whose peers the test plays: promises, and adopting the highest log."""

from __future__ import annotations

import pytest

from harness.paxos_acceptors import Acceptors, entries, kinds
from onceflow_consensus.errors import (
    MessageRefused,
)
from onceflow_consensus.paxos.messages import Ballot, PaxosKind, PaxosMessage
from onceflow_consensus.paxos.roles import SHOWN_ROLES, Phase
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

K = PaxosKind


def test_a_promise_brings_what_the_proposer_lacks_and_refuses_lower_ballots():
    replica = Acceptors((2, 2))
    (promise,) = replica.receive(K.PREPARE, 2, 5, log_term=2, index=2, commit_index=1)
    assert (promise.kind, promise.to, promise.term) == (K.PROMISE, 2, 5)
    assert promise.position == EntryId(2, 3)
    assert promise.entries == entries((2, 3))
    assert replica.log.hard_state == HardState(5, 2, 1)
    for term, sender in ((4, 3), (5, 3)):
        (refusal,) = replica.receive(K.ACCEPT, sender, term, log_term=2, index=3)
        assert (refusal.kind, refusal.term, refusal.vote) == (K.REFUSE, 5, 2)
        assert refusal.index == term


def test_a_promise_leaves_only_when_it_is_durable():
    replica = Acceptors()
    replica.node.step(PaxosMessage(K.PREPARE, 2, 1, 5, log_term=1, index=1))
    ready = replica.node.ready()
    assert ready.hard_state == HardState(5, 2, 1)
    assert ready.must_sync
    assert kinds(ready.messages) == []
    assert kinds(ready.messages_after_persist) == [K.PROMISE]


def test_a_promise_brings_nothing_to_who_holds_as_much():
    replica = Acceptors((2,))
    (promise,) = replica.receive(K.PREPARE, 2, 5, log_term=3, index=2)
    assert promise.entries == ()


def test_a_promise_begins_at_what_is_decided_if_the_logs_differ():
    replica = Acceptors((2, 3))
    (promise,) = replica.receive(K.PREPARE, 2, 5, log_term=2, index=3, commit_index=1)
    assert promise.entries == entries((2, 2), (3, 3))


def test_a_promise_brings_a_snapshot_in_place_of_what_is_compacted():
    replica = Acceptors((2, 2, 2), hard=HardState(2, 9, 4))
    replica.log.newest_snapshot = lambda: RaftSnapshot(3, 2, configuration_of(frozenset({1, 2, 3})))
    replica.work()
    replica.log.compact(3)
    asked = {"log_term": 1, "index": 1, "commit_index": 1}
    (promise,) = replica.receive(K.PREPARE, 2, 5, **asked)
    assert (promise.kind, promise.entries) == (K.PROMISE, ())
    state, promise = replica.receive(K.FETCH, 2, 5, **asked)
    assert (state.kind, state.to, state.raft_snapshot.index) == (K.STATE, 2, 3)
    assert [m.kind for m in replica.receive(K.FETCH, 2, 5, **asked)] == [K.PROMISE]
    for _ in range(4):
        replica.node.tick(8)
    assert K.STATE in kinds(replica.receive(K.FETCH, 2, 5, **asked))
    replica.log.newest_snapshot = lambda: None
    for _ in range(4):
        replica.node.tick(8)
    assert K.STATE not in kinds(replica.receive(K.FETCH, 2, 5, **asked))


def test_a_ballot_is_opened_with_a_quorum_and_the_own_durable_promise():
    replica = Acceptors()
    replica.node.campaign()
    ready = replica.node.ready()
    assert {m.to for m in ready.messages if m.kind is K.PREPARE} == {2, 3}
    ballot = replica.state.promised
    assert ballot == Ballot(2, 1)
    for peer in (2, 3):
        replica.node.step(PaxosMessage(K.PROMISE, peer, 1, 2, log_term=1, index=1))
    assert replica.state.phase is Phase.PREPARE
    assert SHOWN_ROLES[replica.state.phase].name == "FOLLOWER"
    replica.node.advance()
    assert replica.state.phase is Phase.ACCEPT
    sent = replica.work()
    assert [m.kind for m in sent] == [K.ACCEPT_SYNC, K.ACCEPT_SYNC]
    assert replica.state.log.last_id == EntryId(2, 2)


def test_the_highest_log_of_a_quorum_is_adopted_by_its_last_term_and_then_by_its_length():
    replica = Acceptors((2, 2, 2), voters=(1, 2, 3, 4, 5), hard=HardState(3, 9, 1))
    replica.prepare()
    replica.promise(2, (2, 5), entries=entries((2, 5)))
    assert replica.terms() == [2, 2, 2]
    replica.promise(3, (3, 3), entries=entries((2, 2), (3, 3)))
    assert replica.terms() == [2, 3, replica.state.promised.number]


def test_an_own_log_that_is_highest_needs_nothing():
    replica = Acceptors((2, 3))
    replica.prepare()
    sent = replica.promise(2, (2, 4))
    assert replica.terms() == [2, 3, 4]
    (sync,) = [m for m in sent if m.kind is K.ACCEPT_SYNC]
    # Where its log differs is not known: it is sent all that it does not know to be decided.
    assert (sync.to, sync.position, len(sync.entries)) == (2, EntryId(1, 1), 3)


def test_what_is_adopted_comes_in_pieces_and_is_asked_for():
    replica = Acceptors(max_message_bytes=0)
    replica.prepare()
    (asked,) = replica.promise(2, (1, 4), entries=entries((1, 2)))
    assert (asked.kind, asked.position) == (K.FETCH, EntryId(1, 2))
    assert replica.promise(2, (1, 4), entries=entries((1, 2))) == []
    (asked,) = replica.promise(2, (1, 4), entries=entries((1, 3)))
    assert asked.position == EntryId(1, 3)
    replica.promise(2, (1, 4), entries=entries((1, 4)))
    assert replica.terms() == [1, 1, 1, 2]


def test_what_does_not_follow_is_ignored_and_what_contradicts_itself_refused():
    replica = Acceptors(max_message_bytes=0)
    replica.prepare()
    replica.promise(2, (1, 6), entries=entries((1, 2)))
    replica.promise(2, (1, 6), entries=entries((1, 5)))
    assert replica.terms() == [1]
    with pytest.raises(MessageRefused):
        replica.promise(2, (1, 6), entries=entries((1, 3), (1, 6)))
    with pytest.raises(MessageRefused):
        replica.promise(2, (1, 6), entries=entries((2, 3)))
    assert replica.terms() == [1]


def test_a_promise_that_brings_nothing_is_asked_again():
    replica = Acceptors()
    replica.prepare()
    (asked,) = replica.promise(2, (1, 4))
    assert (asked.kind, asked.to) == (K.FETCH, 2)
    replica.answers(2)
    replica.node.tick(8)
    assert [(m.kind, m.to) for m in replica.work()] == [(K.PREPARE, 3), (K.FETCH, 2)]
    replica.promise(3)
    replica.node.tick(8)
    assert [(m.kind, m.to) for m in replica.work()] == [(K.FETCH, 2)]


def test_what_a_peer_promised_before_it_refused_is_not_adopted():
    replica = Acceptors(voters=(1, 2, 3, 4, 5))
    replica.prepare()
    replica.promise(2, (1, 9), entries=entries((1, 2)))
    replica.receive(K.REFUSE, 2, 7, vote=5, index=2)
    replica.promise(3)
    (asked,) = replica.promise(4, (1, 4), entries=entries((1, 2)))
    assert (asked.kind, asked.to, asked.position) == (K.FETCH, 4, EntryId(1, 1))
    assert replica.terms() == []


def test_a_change_known_to_be_decided_by_another_is_applied_before_the_ballot_is_opened():
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.ADD_VOTER, 4),)))
    replica = Acceptors()
    replica.log.put((Entry(1, 2, EntryKind.CONF_CHANGE_V2, data),))
    replica = Acceptors.again(replica)
    replica.prepare()
    sent = replica.promise(2, (1, 2), commit_index=2)
    assert replica.applied[-1].index == 2
    assert 4 in {m.to for m in sent if m.kind is K.PREPARE}
    assert replica.state.phase is Phase.PREPARE


def test_a_smaller_membership_may_have_decided_more():
    replica = Acceptors(voters=(1, 2, 3, 4), max_inflight_messages=1)
    replica.prepare()
    replica.promise(2)
    replica.promise(3)
    replica.accepted(2, index=2)
    replica.accepted(3, index=2)
    replica.node.propose_conf_change(ConfChange((SingleChange(ChangeOp.REMOVE, 4),)))
    replica.work()
    replica.accepted(2, index=3)
    ready_before = replica.state.log.commit_index
    replica.node.transfer_leadership(2)
    replica.accepted(3, index=3)
    assert (ready_before, replica.state.log.commit_index) == (2, 3)
    assert replica.state.tracker.voters == {1, 2, 3}
    assert replica.node.status.transferee == 2
    for _ in range(4):
        for peer in (2, 3):
            replica.answers(peer)
        replica.node.tick(8)
    assert replica.node.status.transferee == 0


def test_a_proposer_counts_again_when_the_quorum_becomes_smaller():
    # Nothing is proposed after a change, but the next proposer's first entry may stand there.
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.REMOVE, 4),)))
    replica = Acceptors(voters=(1, 2, 3, 4))
    replica.log.put((Entry(1, 2, EntryKind.CONF_CHANGE_V2, data),))
    replica = Acceptors.again(replica)
    replica.prepare()
    replica.promise(2, (1, 2))
    replica.promise(3, (1, 2))
    replica.accepted(2, index=3)
    assert replica.state.log.commit_index == 1
    replica.accepted(3, index=3)
    assert replica.state.log.commit_index == 3


def test_a_proposer_gives_up_when_what_it_must_adopt_does_not_come():
    replica = Acceptors()
    replica.prepare()
    replica.promise(2, (1, 4))
    for _ in range(4):
        assert replica.state.phase is Phase.PREPARE
        replica.answers(2)
        replica.node.tick(8)
    assert replica.state.phase is Phase.FOLLOW


def test_a_proposer_gives_up_when_the_one_whose_log_it_adopts_promises_another():
    replica = Acceptors(voters=(1, 2, 3, 4, 5))
    replica.prepare()
    replica.promise(3)
    (fetch,) = replica.promise(2, (1, 4))
    assert fetch.kind is K.FETCH
    replica.receive(K.REFUSE, 4, 7, vote=5, index=2)
    assert replica.state.phase is Phase.PREPARE
    replica.receive(K.REFUSE, 2, 7, vote=5, index=2)
    assert replica.state.phase is Phase.FOLLOW


def test_a_higher_log_that_comes_up_later_is_adopted_under_the_next_ballot():
    replica = Acceptors(max_message_bytes=0)
    replica.prepare()
    replica.promise(2, (1, 3), entries=entries((1, 2)))
    replica.promise(3, (1, 5), entries=entries((1, 2)))
    replica.promise(2, (1, 3), entries=entries((1, 3)))
    assert (replica.state.phase, replica.state.promised) == (Phase.PREPARE, Ballot(3, 1))


def test_a_snapshot_is_adopted_with_its_members():
    replica = Acceptors()
    replica.prepare()
    members = configuration_of(frozenset({1, 2}))
    (fetch,) = replica.promise(2, (1, 7))
    assert (fetch.kind, fetch.to) == (K.FETCH, 2)
    replica.receive(K.STATE, 3, raft_snapshot=RaftSnapshot(6, 1, members))
    replica.receive(K.STATE, 2)
    assert replica.state.log.first_index == 2
    (fetch,) = replica.receive(K.STATE, 2, raft_snapshot=RaftSnapshot(6, 1, members))
    assert (fetch.kind, fetch.position) == (K.FETCH, EntryId(1, 6))
    replica.promise(2, (1, 7), entries=entries((1, 7)))
    assert replica.state.phase is Phase.ACCEPT
    assert replica.state.tracker.voters == {1, 2}


def test_who_learns_from_a_snapshot_that_it_is_no_voter_gives_up():
    replica = Acceptors()
    replica.prepare()
    replica.promise(2, (1, 7))
    members = configuration_of(frozenset({2, 3}), frozenset({1}))
    replica.receive(K.STATE, 2, raft_snapshot=RaftSnapshot(6, 1, members))
    assert replica.state.phase is Phase.FOLLOW
    assert replica.state.log.first_index == 7


def test_a_snapshot_that_comes_after_the_ballot_was_given_up_is_taken_all_the_same():
    replica = Acceptors()
    members = configuration_of(frozenset({1, 2, 3}))
    replica.receive(K.STATE, 2, 1, raft_snapshot=RaftSnapshot(6, 1, members))
    assert replica.state.log.first_index == 7
    with pytest.raises(MessageRefused):
        replica.receive(K.STATE, 9, 1, raft_snapshot=RaftSnapshot(8, 1, members))


def test_a_decided_change_that_was_adopted_is_applied_before_the_ballot_is_opened():
    replica = Acceptors()
    replica.node.campaign()
    replica.work()
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.ADD_VOTER, 4),)))
    change = Entry(1, 2, EntryKind.CONF_CHANGE_V2, data)
    message = PaxosMessage(
        K.PROMISE, 2, 1, 2, log_term=1, index=2, entries=(change,), commit_index=2
    )
    replica.node.step(message)
    assert replica.state.has_unapplied_change
    assert replica.state.phase is Phase.PREPARE
    sent = replica.work()
    # Two of three had promised; two of four are no quorum.
    assert replica.state.phase is Phase.PREPARE
    assert 4 in {m.to for m in sent if m.kind is K.PREPARE}
    replica.promise(4)
    assert replica.state.phase is Phase.ACCEPT


def test_who_is_removed_by_what_it_adopts_gives_up():
    replica = Acceptors()
    replica.prepare()
    data = encode_conf_change(ConfChange((SingleChange(ChangeOp.REMOVE, 1),)))
    change = Entry(1, 2, EntryKind.CONF_CHANGE_V2, data)
    replica.promise(2, (1, 2), entries=(change,), commit_index=2)
    assert replica.state.phase is Phase.FOLLOW
    assert not replica.state.is_voter
    replica.node.campaign()
    assert replica.state.phase is Phase.FOLLOW


def test_a_refused_proposer_goes_on_while_a_quorum_may_promise():
    replica = Acceptors(voters=(1, 2, 3, 4, 5))
    replica.prepare()
    refusal = {"vote": 5, "index": 2}
    replica.receive(K.REFUSE, 2, 7, **refusal)
    replica.receive(K.REFUSE, 3, 7, vote=5, index=1)
    replica.receive(K.REFUSE, 3, 7, **refusal)
    assert replica.state.phase is Phase.PREPARE
    replica.promise(3)
    replica.receive(K.REFUSE, 4, 7, **refusal)
    assert replica.state.phase is Phase.PREPARE
    replica.promise(5)
    assert replica.state.phase is Phase.ACCEPT
    # An acceptor that promised somebody else meanwhile takes the quorum away.
    replica.receive(K.REFUSE, 5, 7, **refusal)
    assert replica.state.phase is Phase.FOLLOW
    assert replica.state.elections.elected == Ballot(7, 5)


def test_a_proposer_that_too_many_refuse_gives_up():
    replica = Acceptors()
    replica.prepare()
    for peer in (2, 3):
        replica.receive(K.REFUSE, peer, 7, vote=3, index=2)
    assert replica.state.phase is Phase.FOLLOW
    replica.prepare()
    assert replica.state.promised == Ballot(8, 1)


def test_of_two_owners_of_a_number_the_higher_one_tries_the_next():
    higher, lower = Acceptors(peer=3), Acceptors(peer=2)
    for replica in (higher, lower):
        replica.prepare()
    higher.receive(K.REFUSE, 2, 2, vote=2, index=2)
    assert (higher.state.phase, higher.state.promised) == (Phase.PREPARE, Ballot(3, 3))
    lower.receive(K.REFUSE, 3, 2, vote=3, index=2)
    assert (lower.state.phase, lower.state.promised) == (Phase.PREPARE, Ballot(2, 2))
    lower.receive(K.REFUSE, 1, 2, vote=3, index=2)
    assert lower.state.phase is Phase.FOLLOW


def test_answers_to_another_ballot_are_dropped():
    replica = Acceptors()
    replica.promise(2)
    replica.prepare()
    replica.receive(K.PROMISE, 2, 1, log_term=1, index=1)
    replica.accepted(2)
    assert replica.state.phase is Phase.PREPARE
