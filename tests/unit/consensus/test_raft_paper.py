"""The Raft paper (extended version), statement by statement.

Each test names its section. Where the engine follows etcd-raft instead, the README says so.
"""

from __future__ import annotations

from collections import Counter

import pytest

from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.raft.roles import Role

K = MessageKind


def entries(*pairs):
    """Entries from (term, index) pairs."""
    return tuple(Entry(term, index) for term, index in pairs)


def as_role(replica, role):
    if role is Role.LEADER:
        replica.become_leader()
    elif role is not Role.FOLLOWER:
        replica.node.campaign()
        replica.work()
    assert replica.state.role is role
    return replica


# Section 5.1: terms


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
def test_5_1_a_higher_term_is_adopted_and_makes_a_follower(new_replica, role):
    replica = as_role(new_replica(), role)
    replica.receive(K.APP, 2, term=7)
    assert (replica.state.term, replica.state.role, replica.state.raft_leader) == (
        7,
        Role.FOLLOWER,
        2,
    )


@pytest.mark.parametrize("kind", [K.APP, K.HEARTBEAT, K.VOTE, K.VOTE_RESP, K.APP_RESP, K.SNAP])
def test_5_1_a_stale_term_changes_nothing(new_replica, kind):
    replica = new_replica(hard_state=HardState(5, 3, 0))
    assert replica.receive(kind, 2, term=4) == []
    assert (replica.state.term, replica.state.vote, replica.state.raft_leader) == (5, 3, 0)


def test_5_1_the_term_is_durable_before_anything_is_promised_in_it(new_replica):
    replica = new_replica()
    replica.node.step(Message(K.VOTE, 1, 2, 3, index=0, log_term=0))
    ready = replica.node.ready()
    assert ready.must_sync
    assert ready.hard_state == HardState(3, 2, 0)
    assert ready.messages == ()
    assert [message.kind for message in ready.messages_after_persist] == [K.VOTE_RESP]


# Section 5.2: leader election


def test_5_2_servers_begin_as_followers(new_replica):
    assert new_replica().state.role is Role.FOLLOWER


def test_5_2_a_leader_sends_heartbeats_to_all_followers(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.node.tick(10)
    beats = replica.work()
    assert [(m.kind, m.to, m.term, m.entries) for m in beats] == [
        (K.HEARTBEAT, 2, 1, ()),
        (K.HEARTBEAT, 3, 1, ()),
    ]


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE])
def test_5_2_without_a_leader_an_election_begins_in_a_higher_term(new_replica, role):
    replica = as_role(new_replica(), role)
    before = replica.state.term
    for _ in range(10):
        replica.node.tick(10)
    requests = replica.work()
    assert replica.state.role is Role.CANDIDATE
    assert (replica.state.term, replica.state.vote) == (before + 1, 1)
    assert [(m.kind, m.to, m.term) for m in requests] == [
        (K.VOTE, 2, before + 1),
        (K.VOTE, 3, before + 1),
    ]


def test_5_2_a_heard_leader_prevents_an_election(new_replica):
    replica = new_replica()
    for _ in range(5):
        for _ in range(9):
            replica.node.tick(10)
        replica.receive(K.HEARTBEAT, 2, term=1)
    assert (replica.state.role, replica.state.term) == (Role.FOLLOWER, 1)


@pytest.mark.parametrize(
    ("size", "votes", "role"),
    [
        (1, {}, Role.LEADER),
        (3, {2: True, 3: True}, Role.LEADER),
        (3, {2: True}, Role.LEADER),
        (5, {2: True, 3: True}, Role.LEADER),
        (3, {2: False, 3: False}, Role.FOLLOWER),
        (5, {2: False, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (5, {2: True, 3: False, 4: False, 5: False}, Role.FOLLOWER),
        (3, {}, Role.CANDIDATE),
        (5, {2: True}, Role.CANDIDATE),
        (5, {2: False, 3: False}, Role.CANDIDATE),
    ],
)
def test_5_2_a_majority_of_votes_decides_the_election(new_replica, size, votes, role):
    replica = new_replica(voters=range(1, size + 1))
    replica.node.campaign()
    replica.work()
    for peer_id, granted in votes.items():
        replica.receive(K.VOTE_RESP, peer_id, rejected=not granted, term=1)
    assert (replica.state.role, replica.state.term) == (role, 1)


def test_5_2_a_repeated_vote_counts_once(new_replica):
    replica = new_replica(voters=range(1, 6))
    replica.node.campaign()
    replica.work()
    for _ in range(3):
        replica.receive(K.VOTE_RESP, 2)
    assert replica.state.role is Role.CANDIDATE


def test_5_2_the_first_vote_of_a_peer_counts(new_replica):
    replica = as_role(new_replica(), Role.CANDIDATE)
    replica.receive(K.VOTE_RESP, 2, rejected=True)
    replica.receive(K.VOTE_RESP, 2)
    assert replica.state.role is Role.CANDIDATE


def test_5_2_a_vote_of_an_older_term_does_not_count(new_replica):
    replica = new_replica()
    replica.node.campaign()
    replica.work()
    replica.node.campaign()
    replica.work()
    replica.receive(K.VOTE_RESP, 2, term=1)
    assert (replica.state.role, replica.state.term) == (Role.CANDIDATE, 2)


@pytest.mark.parametrize(
    ("given", "asking", "rejected"),
    [(0, 2, False), (0, 3, False), (2, 2, False), (3, 3, False), (2, 3, True), (3, 2, True)],
)
def test_5_2_one_vote_per_term_first_come_first_served(new_replica, given, asking, rejected):
    replica = new_replica(hard_state=HardState(1, given, 0))
    (answer,) = replica.receive(K.VOTE, asking)
    assert (answer.kind, answer.to, answer.rejected) == (K.VOTE_RESP, asking, rejected)


def test_5_2_a_vote_outlives_a_return_to_follower_and_a_restart(new_replica):
    replica = new_replica()
    replica.receive(K.VOTE, 2, term=4)
    replica.receive(K.APP, 2, term=4)
    (answer,) = replica.receive(K.VOTE, 3, term=4)
    assert answer.rejected
    again = RaftNode(RaftOptions(1, pre_vote=False, check_quorum=False), replica.log)
    again.step(Message(K.VOTE, 1, 3, 4))
    (answer,) = again.ready().messages_after_persist
    assert answer.rejected


@pytest.mark.parametrize("term", [1, 2])
@pytest.mark.parametrize("kind", [K.APP, K.HEARTBEAT, K.SNAP])
def test_5_2_a_candidate_yields_to_a_leader_of_its_term_or_above(new_replica, term, kind):
    replica = as_role(new_replica(), Role.CANDIDATE)
    replica.receive(kind, 2, term=term)
    assert (replica.state.role, replica.state.term, replica.state.raft_leader) == (
        Role.FOLLOWER,
        term,
        2,
    )


@pytest.mark.parametrize("timeout", range(10, 20))
def test_5_2_the_election_timeout_is_the_one_the_driver_drew(new_replica, timeout):
    replica = new_replica()
    ticks = 0
    while replica.state.role is Role.FOLLOWER:
        # Only the first draw of a period counts.
        replica.node.tick(timeout if ticks == 0 else 10)
        ticks += 1
    assert ticks == timeout


# Section 5.3: log replication


def test_5_3_a_leader_appends_a_proposal_and_sends_it_with_what_precedes_it(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.acknowledge(2)
    replica.acknowledge(3)
    replica.node.propose(b"some data")
    ready = replica.node.ready()
    new = Entry(1, 2, data=b"some data")
    assert ready.entries == (new,)
    assert [(m.kind, m.to, m.index, m.log_term, m.entries) for m in ready.messages] == [
        (K.APP, 2, 1, 1, (new,)),
        (K.APP, 3, 1, 1, (new,)),
    ]


def test_5_3_an_entry_on_a_majority_is_committed_applied_and_told(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.acknowledge(2)
    replica.acknowledge(3)
    replica.node.propose(b"some data")
    replica.work()
    told = replica.acknowledge(2)
    assert replica.applied[-1] == Entry(1, 2, data=b"some data")
    assert [(m.kind, m.to, m.commit_index) for m in told] == [(K.APP, 2, 2), (K.APP, 3, 2)]


@pytest.mark.parametrize(
    ("size", "acknowledging", "committed"),
    [
        (1, [], True),
        (3, [], False),
        (3, [2], True),
        (3, [2, 3], True),
        (5, [2], False),
        (5, [2, 3], True),
        (5, [2, 3, 4], True),
    ],
)
def test_5_3_a_majority_commits(new_replica, size, acknowledging, committed):
    replica = new_replica(voters=range(1, size + 1))
    replica.become_leader()
    replica.node.propose(b"some data")
    replica.work()
    for peer_id in acknowledging:
        replica.acknowledge(peer_id, 2)
    assert (replica.state.log.commit_index == 2) is committed


def test_5_3_the_committed_index_is_the_median_of_what_matches(new_replica):
    replica = new_replica(voters=range(1, 6))
    replica.become_leader()
    replica.node.propose(b"a", b"b", b"c", b"d")
    replica.work()
    for peer_id, index in [(2, 2), (3, 2), (4, 4)]:
        replica.acknowledge(peer_id, index)
    assert replica.state.log.commit_index == 2
    replica.acknowledge(5, 3)
    assert replica.state.log.commit_index == 3


@pytest.mark.parametrize("terms", [[], [2], [1, 2], [1]])
def test_5_3_committing_an_entry_commits_all_before_it(new_replica, terms):
    replica = new_replica(terms, hard_state=HardState(2, 0, 0))
    replica.become_leader()
    replica.node.propose(b"some data")
    replica.work()
    replica.acknowledge(2)
    assert [entry.term for entry in replica.applied] == [*terms, 3, 3]
    assert [entry.index for entry in replica.applied] == list(range(1, len(terms) + 3))


def test_5_3_a_follower_applies_what_it_learns_to_be_committed(new_replica):
    replica = new_replica(hard_state=HardState(1, 0, 0))
    sent = (Entry(1, 1, data=b"a"), Entry(1, 2, data=b"b"))
    replica.receive(K.APP, 2, entries=sent, commit_index=1)
    assert replica.applied == [sent[0]]
    replica.receive(K.HEARTBEAT, 2, commit_index=2)
    assert replica.applied == list(sent)


@pytest.mark.parametrize(
    ("log_term", "index", "acknowledged", "rejected", "hint", "hint_term"),
    [
        (0, 0, 1, False, 0, 0),  # below what is committed: nothing left to compare
        (1, 1, 1, False, 0, 0),
        (2, 2, 2, False, 0, 0),
        (1, 2, 2, True, 1, 1),  # another term at that index
        (4, 3, 3, True, 2, 2),  # beyond the log's end
        (3, 4, 4, True, 2, 2),
    ],
)
def test_5_3_a_follower_checks_what_precedes_an_append(
    new_replica, log_term, index, acknowledged, rejected, hint, hint_term
):
    replica = new_replica([1, 2], hard_state=HardState(4, 0, 1))
    (answer,) = replica.receive(K.APP, 2, log_term=log_term, index=index)
    assert (answer.kind, answer.index, answer.rejected) == (K.APP_RESP, acknowledged, rejected)
    assert (answer.reject_hint, answer.log_term) == (hint, hint_term)


@pytest.mark.parametrize(
    ("index", "log_term", "sent", "terms"),
    [
        (2, 2, [(3, 3)], [1, 2, 3]),
        (1, 1, [(3, 2), (4, 3)], [1, 3, 4]),
        (0, 0, [(1, 1)], [1, 2]),
        (0, 0, [(3, 1)], [3]),
        (1, 1, [], [1, 2]),  # an empty append proves nothing about what follows, and cuts nothing
    ],
)
def test_5_3_conflicting_entries_are_replaced_and_no_others(
    new_replica, index, log_term, sent, terms
):
    replica = new_replica([1, 2], hard_state=HardState(4, 0, 0))
    replica.receive(K.APP, 2, index=index, log_term=log_term, entries=entries(*sent))
    assert replica.terms() == terms


def test_5_3_an_acknowledgement_names_only_what_its_append_proved(new_replica):
    replica = new_replica([1, 1, 1], hard_state=HardState(1, 0, 0))
    (answer,) = replica.receive(K.APP, 2, index=1, log_term=1, entries=entries((1, 2)))
    assert answer.index == 2
    (answer,) = replica.receive(K.APP, 2, index=1, log_term=1)
    assert answer.index == 1


def test_5_3_a_commit_index_beyond_what_an_append_proved_is_not_believed(new_replica):
    replica = new_replica([1, 1, 1], hard_state=HardState(2, 0, 0))
    replica.receive(K.APP, 2, index=1, log_term=1, commit_index=3)
    assert replica.state.log.commit_index == 1


FIGURE_7_LEADER = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize(
    "follower_terms",
    [
        [1, 1, 1, 4, 4, 5, 5, 6, 6],
        [1, 1, 1, 4],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        [1, 1, 1, 4, 4, 4, 4],
        [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ],
    ids="abcdef",
)
def test_5_3_figure_7_a_leader_brings_every_log_up_to_its_own(new_replica, follower_terms):
    leading = new_replica(FIGURE_7_LEADER, hard_state=HardState(7, 0, 0))
    follower = new_replica(follower_terms, peer_id=2, hard_state=HardState(7, 0, 0))
    leading.node.campaign()
    leading.work()
    under_way = leading.receive(K.VOTE_RESP, 3, term=8)
    rounds = 0
    while under_way:
        rounds += 1
        assert rounds < 20
        answers = []
        for message in under_way:
            if message.to == 2:
                follower.node.step(message)
                answers += follower.work()
        under_way = []
        for answer in answers:
            leading.node.step(answer)
            under_way += leading.work()
    assert follower.terms() == leading.terms() == [*FIGURE_7_LEADER, 8]
    assert follower.state.log.commit_index == 11


# Section 5.4: safety


@pytest.mark.parametrize("terms", [[1], [1, 2]])
def test_5_4_1_a_vote_request_tells_the_end_of_the_log(new_replica, terms):
    replica = new_replica(terms)
    replica.node.campaign()
    requests = replica.work()
    assert Counter(m.to for m in requests) == {2: 1, 3: 1}
    assert {(m.index, m.log_term) for m in requests} == {(len(terms), terms[-1])}


@pytest.mark.parametrize(
    ("own", "log_term", "index", "rejected"),
    [
        ([1], 1, 1, False),
        ([1], 1, 2, False),
        ([1, 1], 1, 1, True),
        ([1], 2, 1, False),
        ([1], 2, 2, False),
        ([1, 1], 2, 1, False),  # a later term wins over a longer log
        ([2], 1, 1, True),
        ([2], 1, 2, True),
        ([2, 1], 1, 1, True),
    ],
)
def test_5_4_1_a_voter_refuses_a_candidate_whose_log_is_behind(
    new_replica, own, log_term, index, rejected
):
    replica = new_replica(own, hard_state=HardState(2, 0, 0))
    (answer,) = replica.receive(K.VOTE, 2, term=3, log_term=log_term, index=index)
    assert answer.rejected is rejected


@pytest.mark.parametrize(("index", "commit_index"), [(1, 0), (2, 0), (3, 3)])
def test_5_4_2_figure_8_only_entries_of_the_own_term_are_committed_by_counting(
    new_replica, index, commit_index
):
    replica = new_replica([1, 2], hard_state=HardState(2, 0, 0))
    replica.become_leader()
    replica.acknowledge(2, index)
    assert replica.state.log.commit_index == commit_index


def test_5_4_3_a_leader_lacks_no_committed_entry(new_replica):
    # The candidate misses an entry that 1 and 3 hold: neither votes for it.
    for voter in (1, 3):
        replica = new_replica([1, 1], peer_id=voter, hard_state=HardState(1, 0, 2))
        (answer,) = replica.receive(K.VOTE, 2, term=2, log_term=1, index=1)
        assert answer.rejected


# Section 5.5 and 7: lost messages, snapshots


def test_5_5_a_repeated_append_changes_nothing(new_replica):
    replica = new_replica(hard_state=HardState(1, 0, 0))
    for _ in range(2):
        (answer,) = replica.receive(K.APP, 2, entries=entries((1, 1), (1, 2)), commit_index=2)
        assert (answer.index, answer.rejected) == (2, False)
    assert replica.terms() == [1, 1]
    assert len(replica.applied) == 2


def test_7_a_snapshot_replaces_the_log_and_brings_the_members(new_replica):
    replica = new_replica([1, 1], hard_state=HardState(1, 0, 1))
    members = configuration_of(frozenset({1, 2, 3, 4}))
    received = RaftSnapshot(11, 3, members, b"state")
    (answer,) = replica.receive(K.SNAP, 2, term=3, raft_snapshot=received)
    assert (answer.kind, answer.index) == (K.APP_RESP, 11)
    assert (replica.log.first_index, replica.log.last_index) == (12, 11)
    assert replica.state.tracker.configuration == members
    assert replica.state.cursor.applied_index == 11


def test_7_a_snapshot_of_a_prefix_keeps_what_follows_it(new_replica):
    replica = new_replica([1, 1, 1, 1], hard_state=HardState(1, 0, 1))
    received = RaftSnapshot(3, 1, configuration_of(frozenset({1, 2, 3})))
    (answer,) = replica.receive(K.SNAP, 2, raft_snapshot=received)
    assert answer.index == 3
    assert replica.state.log.commit_index == 3
    assert replica.terms() == [1, 1, 1, 1]


def test_7_an_old_snapshot_is_answered_with_what_is_committed(new_replica):
    replica = new_replica([1, 1, 1], hard_state=HardState(1, 0, 3))
    received = RaftSnapshot(2, 1, configuration_of(frozenset({1, 2, 3})))
    (answer,) = replica.receive(K.SNAP, 2, raft_snapshot=received)
    assert answer.index == 3
    assert replica.terms() == [1, 1, 1]


def test_7_a_follower_that_needs_compacted_entries_gets_a_snapshot(new_replica):
    replica = new_replica(begin=10)
    replica.become_leader()
    replica.acknowledge(2)
    replica.receive(K.HEARTBEAT_RESP, 3)
    (sent,) = replica.receive(K.APP_RESP, 3, index=10, rejected=True, reject_hint=2)
    assert sent.kind is K.SNAP
    assert sent.raft_snapshot.index == 10


# Section 8: clients


def test_8_a_leader_begins_its_term_with_an_entry_of_its_own(new_replica):
    replica = new_replica([1])
    replica.become_leader()
    assert replica.terms() == [1, 2]
    assert replica.state.log.unstable.entries == []
