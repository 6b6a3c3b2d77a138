"""Bugs that other implementations shipped, as tests: those that no other test states already.

The whole list, with where each is tested, is ``test_scenario_table.py``; numbers are its.
"""

from __future__ import annotations

import pytest

from onceflow_consensus.raft.confchange import ChangeOp, ConfChange, SingleChange
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    Entry,
    HardState,
    Message,
    MessageKind,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.records import Base
from onceflow_consensus.testing.group import Group
from onceflow_consensus.testing.memory_disk import MemoryDisk
from onceflow_consensus.testing.memory_log import MemoryLog

K = MessageKind


def entries(*pairs):
    return tuple(Entry(term, index) for term, index in pairs)


def new_group(size, **options):
    made = Group()
    made.transcript.is_quiet = True
    begun = RaftSnapshot(1, 1, configuration_of(frozenset(range(1, size + 1))))
    for peer_id in range(1, size + 1):
        made.add_member(RaftOptions(peer_id, **options), begun)
    return made


def leaders(made):
    return [peer for peer, member in made.members.items() if member.node.status.role is Role.LEADER]


def elect_without(made, elected, present):
    """Let time pass for those present until one of them leads."""
    for _ in range(40):
        if elected in leaders(made):
            return
        for peer_id in present:
            made.members[peer_id].node.tick(12 if peer_id == elected else 19)
        made.stabilize(present)


def test_5_a_proposal_before_anything_is_known_of_the_followers_is_sent_from_the_right_place(
    new_replica,
):
    replica = new_replica([1, 1, 1], hard_state=HardState(1, 0, 3))
    replica.node.campaign()
    replica.work()
    replica.node.step(Message(K.VOTE_RESP, 1, 2, replica.state.term))
    replica.node.propose(b"at once")
    appends = [message for message in replica.work() if message.kind is K.APP]
    assert {message.to for message in appends} == {2, 3}
    for message in appends:
        assert (message.index, message.log_term) == (3, 1)
        assert [entry.index for entry in message.entries] in ([4], [4, 5])
    assert replica.terms() == [1, 1, 1, 2, 2]


def test_6_the_position_before_the_first_entry_is_not_the_first_entry(new_replica):
    empty = new_replica()
    (answer,) = empty.receive(K.APP, 2, term=1, index=1, log_term=1, entries=entries((1, 2)))
    assert (answer.rejected, answer.reject_hint) == (True, 0)
    (answer,) = empty.receive(K.APP, 2, term=1, entries=entries((1, 1)))
    assert (answer.rejected, answer.index) == (False, 1)
    assert empty.terms() == [1]


def cut_off(made, links):
    """Lose every message that does not go over one of the links, pairs of peers."""
    made.messages = [
        message
        for message in made.messages
        if message.sender == message.to or frozenset((message.sender, message.to)) in links
    ]


def test_9_a_group_that_is_partly_connected_elects_and_keeps_a_leader_that_a_quorum_reaches():
    """1, 2 and 3 reach each other, 4 reaches only 2, and 5 only 3; nobody may lead from 4 or 5."""
    made = new_group(5)
    links = {frozenset(pair) for pair in ((1, 2), (2, 3), (1, 3), (2, 4), (3, 5))}
    seen = []
    for turn in range(120):
        for peer_id, member in made.members.items():
            member.node.tick(10 + (7 * peer_id + turn) % 10)
        for _ in range(4):
            for peer_id, member in made.members.items():
                while member.node.has_ready():
                    made.process_ready(peer_id)
                cut_off(made, links)
                made.deliver(peer_id)
        terms = [member.node.status.term for member in made.members.values()]
        seen.append((leaders(made), max(terms)))
        for peer_id in leaders(made):
            made.members[peer_id].node.propose(b"x")
    # It serves throughout, and is not deposed by those who do not hear of it.
    assert seen[30:] == [seen[30]] * 90
    (leading,) = seen[30][0]
    assert made.members[leading].node.status.commit_index > 90


def test_10_a_pre_candidate_believes_in_no_leader_and_can_vote_for_another(new_replica):
    replica = new_replica(pre_vote=True, check_quorum=True)
    replica.receive(K.HEARTBEAT, 2, term=1)
    assert replica.state.raft_leader == 2
    for _ in range(10):
        replica.node.tick(10)
    replica.work()
    assert (replica.state.role, replica.state.raft_leader) == (Role.PRE_CANDIDATE, 0)
    (answer,) = replica.receive(K.PRE_VOTE, 3, term=2)
    assert (answer.kind, answer.rejected) == (K.PRE_VOTE_RESP, False)
    (answer,) = replica.receive(K.VOTE, 3, term=2)
    assert (answer.kind, answer.rejected) == (K.VOTE_RESP, False)


def test_11_a_voter_votes_for_a_candidate_that_its_own_configuration_does_not_know(new_replica):
    replica = new_replica([1, 1], voters=(1, 2, 3))
    (answer,) = replica.receive(K.VOTE, 9, term=5, log_term=1, index=3)
    assert (answer.kind, answer.to, answer.rejected) == (K.VOTE_RESP, 9, False)


def test_14_a_refused_append_commits_nothing_whatever_it_names(new_replica):
    replica = new_replica()
    replica.become_leader()
    replica.node.propose(b"x")
    replica.work()
    for sender in (2, 3):
        replica.receive(K.APP_RESP, sender, index=2, rejected=True, reject_hint=2)
        replica.receive(K.APP_RESP, sender, index=2, rejected=True, reject_hint=2, log_term=1)
    assert replica.state.log.commit_index == 0
    assert [replica.state.tracker.progress[peer].match_index for peer in (2, 3)] == [0, 0]


def test_19_a_long_divergent_tail_is_skipped_by_terms_not_by_entries(new_replica):
    shared = [1] * 5
    leading = new_replica([*shared, *[2] * 3, *[5] * 400], hard_state=HardState(6, 0, 0))
    other = [*shared, *[term for term in (3, 4) for _ in range(500)]]
    follower = new_replica(other, peer_id=2, hard_state=HardState(6, 0, 0))
    leading.node.campaign()
    leading.work()
    under_way, rounds = leading.receive(K.VOTE_RESP, 3, term=7), 0
    while under_way:
        rounds += 1
        answers = []
        for message in under_way:
            if message.to == 2:
                follower.node.step(message)
                answers += follower.work()
        under_way = []
        for answer in answers:
            leading.node.step(answer)
            under_way += leading.work()
    assert follower.terms() == leading.terms()
    assert rounds <= 8


def test_22_acknowledgements_out_of_order_neither_lower_nor_raise_what_is_committed(new_replica):
    replica = new_replica(voters=(1, 2, 3, 4, 5))
    replica.become_leader()
    for _ in range(4):
        replica.node.propose(b"x")
    replica.work()
    replica.acknowledge(2, 5)
    replica.acknowledge(2, 1)
    replica.acknowledge(2, 5)
    assert replica.state.log.commit_index == 0
    replica.acknowledge(3, 3)
    assert replica.state.log.commit_index == 3
    replica.acknowledge(3, 1)
    replica.acknowledge(4, 2)
    assert replica.state.log.commit_index == 3


def test_24_who_voted_for_another_takes_and_acknowledges_nothing_of_the_old_leader(new_replica):
    replica = new_replica([1], hard_state=HardState(1, 0, 0), check_quorum=True)
    replica.receive(K.VOTE, 3, term=2, log_term=1, index=1)
    assert (replica.state.term, replica.state.vote) == (2, 3)
    (answer,) = replica.receive(K.APP, 2, term=1, index=1, log_term=1, entries=entries((1, 2)))
    # The answer makes the old leader step down, and acknowledges nothing.
    assert (answer.term, answer.index) == (2, 0)
    assert replica.terms() == [1]


@pytest.mark.parametrize("storage", StorageMode)
def test_26_a_second_snapshot_may_come_while_the_first_is_being_written(storage):
    members = configuration_of(frozenset({1, 2, 3}))
    log = MemoryLog()
    node = RaftNode(RaftOptions(3, storage=storage), log)
    waiting = []
    for index in (5, 9):
        received = RaftSnapshot(index, 1, members, b"state")
        node.step(Message(K.SNAP, 3, 1, 1, raft_snapshot=received))
        if storage is StorageMode.MESSAGES:
            waiting.append(node.ready().storage_append)
    if storage is StorageMode.READY:
        ready = node.ready()
        assert ready.raft_snapshot.index == 9
        log.install(ready.raft_snapshot)
        node.advance()
    for work in waiting:
        log.install(work.raft_snapshot)
        for response in work.responses:
            node.step(response) if response.to == 3 else None
    status = node.status
    assert (status.commit_index, status.applied_index, status.last_index) == (9, 9, 9)
    assert status.configuration == members
    node.step(Message(K.APP, 3, 1, 1, log_term=1, index=9, entries=entries((1, 10))))
    assert node.status.last_index == 10


def test_27_the_membership_outlives_two_compactions_and_a_restart():
    disk = MemoryDisk()
    log = DurableLog(disk, 4096)
    members = [configuration_of(frozenset(range(1, size))) for size in (4, 5, 6)]
    requests = [
        WriteRequest(hard_state=HardState(1, 0, 1), raft_snapshot=RaftSnapshot(1, 1, members[0])),
        WriteRequest(entries((1, 2), (1, 3), (1, 4)), HardState(1, 0, 4)),
    ]
    for index, configuration in ((2, members[1]), (4, members[2])):
        own = RaftSnapshot(index, 1, configuration, b"state")
        requests += [WriteRequest(own_snapshot=own), WriteRequest(compacted=Base(index, 1))]
    for request in requests:
        log.persist([request])
        log.taken(request)
    again = DurableLog(disk, 4096)
    assert again.initial_state()[1] == members[2]
    assert (again.first_index, again.last_index) == (5, 4)


def test_31_of_two_changes_by_two_leaders_only_one_can_be_committed():
    """The erratum of the thesis: two leaders each change one voter of the same four."""
    made = new_group(4)
    made.members[1].node.campaign()
    made.stabilize([1, 2, 3, 4])
    add_5 = ConfChange((SingleChange(ChangeOp.ADD_VOTER, 5),))
    made.members[1].node.propose_conf_change(add_5)
    made.process_ready(1)
    made.messages = []
    # 1 holds its change alone and is cut off; 2 is elected by the others and changes on its own.
    elect_without(made, 2, [2, 3, 4])
    assert leaders(made) == [1, 2]
    remove_1 = ConfChange((SingleChange(ChangeOp.REMOVE, 1),))
    made.members[2].node.propose_conf_change(remove_1)
    made.stabilize([2, 3, 4])
    assert made.members[2].node.status.configuration.voters.incoming == {2, 3, 4}
    # The change of 1 has no effect anywhere, not even at 1.
    assert made.members[1].node.status.configuration.voters.incoming == {1, 2, 3, 4}
    assert made.members[1].node.status.commit_index < made.members[1].node.status.last_index


def test_36_of_two_the_one_that_stays_learns_that_the_other_left():
    """The leader removes itself and is gone before 2 hears that the change is committed.

    It holds an entry more than 2, so that 2 would wait for its vote for ever.
    """
    made = new_group(2)
    made.members[1].node.campaign()
    made.stabilize([1, 2])
    made.members[1].node.propose_conf_change(ConfChange((SingleChange(ChangeOp.REMOVE, 1),)))
    made.process_ready(1)
    change = list(made.messages)
    made.members[1].node.propose(b"one more")
    made.process_ready(1)
    made.messages = change
    made.deliver(2)
    made.process_ready(2)
    made.deliver(1)
    while made.members[1].node.has_ready():
        made.process_ready(1)
    assert leaders(made) == []
    made.messages = []
    behind = made.members[2].node
    assert behind.status.configuration.voters.incoming == {1, 2}
    assert behind.status.last_index < made.members[1].node.status.last_index
    elect_without(made, 2, [1, 2])
    assert leaders(made) == [2]
    assert behind.status.configuration.voters.incoming == {2}


def test_38_a_leader_that_slept_through_an_election_confirms_no_read_by_old_answers():
    made = new_group(3)
    made.members[1].node.campaign()
    made.stabilize([1, 2, 3])
    slept = made.members[1].node
    slept.read_index(b"before")
    made.process_ready(1)
    made.deliver(2)
    made.process_ready(2)
    # The answer to the round of "before" is under way while 2 is elected and commits a write.
    late = [message for message in made.messages if message.to == 1]
    assert [message.kind for message in late] == [K.HEARTBEAT_RESP]
    made.messages = []
    elect_without(made, 2, [2, 3])
    made.members[2].node.propose(b"newer")
    made.stabilize([2, 3])
    assert leaders(made) == [1, 2]
    newest = made.members[2].node.status.commit_index
    # It wakes, is asked to read, and hears the old answer first.
    slept.read_index(b"after")
    for message in late:
        slept.step(message)
    confirmed = []
    while slept.has_ready():
        ready = slept.ready()
        confirmed += ready.read_states
        slept.advance()
    assert [read.request_context for read in confirmed] == [b"before"]
    assert slept.status.commit_index < newest
    # The read that came later is never confirmed: the group has moved on.
    slept.step(Message(K.HEARTBEAT_RESP, 1, 2, made.members[2].node.status.term))
    assert slept.status.role is Role.FOLLOWER
    assert slept.state.read_states == []


@pytest.mark.parametrize("storage", StorageMode)
def test_44_a_lone_voter_commits_nothing_before_it_is_durable(storage):
    log = MemoryLog(RaftSnapshot(1, 1, configuration_of(frozenset({1}))))
    node = RaftNode(RaftOptions(1, pre_vote=False, storage=storage), log, applied_index=1)

    def work():
        ready = node.ready()
        told = node.status.commit_index
        log.put(ready.entries)
        if storage is StorageMode.READY:
            node.advance()
        else:
            for response in () if ready.storage_append is None else ready.storage_append.responses:
                node.step(response)
        return told

    node.campaign()
    while node.has_ready():
        work()
    before = node.status.commit_index
    node.propose(b"x")
    assert node.status.commit_index == before
    assert work() == before
    assert node.status.commit_index == before + 1
    assert log.term_at(before + 1) == node.status.term
