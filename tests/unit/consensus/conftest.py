"""A replica on its own: what it wants done is done at once, the test plays its peers."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

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
from onceflow_consensus.testing.memory_log import MemoryLog

PLAIN = {"pre_vote": False, "check_quorum": False, "election_ticks": 10, "heartbeat_ticks": 1}


@dataclass
class Replica:
    node: RaftNode
    log: MemoryLog
    applied: list[Entry] = field(default_factory=list)
    reads: list = field(default_factory=list)

    @property
    def state(self):
        return self.node.state

    def work(self):
        """Do everything the replica wants done; return the messages it sent."""
        sent = []
        while self.node.has_ready():
            ready = self.node.ready()
            if ready.raft_snapshot is not None:
                self.log.install(ready.raft_snapshot)
            self.log.put(ready.entries)
            if ready.hard_state is not None:
                self.log.hard_state = ready.hard_state
            sent += [*ready.messages, *ready.messages_after_persist]
            for entry in ready.committed_entries:
                self.applied.append(entry)
                if entry.kind is not EntryKind.NORMAL:
                    self.node.apply_conf_change(entry)
            self.reads += ready.read_states
            self.node.advance()
        return sent

    def receive(self, kind, sender, **fields):
        """Step a message of a peer, of the present term unless one is given; return the answers."""
        fields.setdefault("term", self.state.term)
        self.node.step(Message(kind, self.state.peer_id, sender, **fields))
        return self.work()

    def become_leader(self):
        self.node.campaign()
        self.work()
        for peer_id in sorted(self.state.tracker.voters - {self.state.peer_id}):
            if self.state.role.value == "StateCandidate":
                self.receive(MessageKind.VOTE_RESP, peer_id)
        assert self.state.role.value == "StateLeader"
        return self.work()

    def acknowledge(self, peer_id, index=None):
        index = self.state.log.last_index if index is None else index
        return self.receive(MessageKind.APP_RESP, peer_id, index=index)

    def terms(self):
        """Return the terms of the whole log in order."""
        log = self.state.log
        return [log.term_at(index) for index in range(log.first_index, log.last_index + 1)]


@pytest.fixture
def new_replica():
    """Make a replica with a log of entries of the given terms, beginning at index 1."""

    def make(
        terms=(), *, peer_id=1, voters=(1, 2, 3), learners=(), hard_state=None, begin=0, **options
    ):
        configuration = configuration_of(frozenset(voters), frozenset(learners))
        begun_with = RaftSnapshot(begin, 1 if begin else 0, configuration)
        log = MemoryLog(begun_with)
        log.put(tuple(Entry(term, begin + i) for i, term in enumerate(terms, 1)))
        log.hard_state = hard_state or HardState(max(terms, default=0), 0, begin)
        replica_options = RaftOptions(peer_id=peer_id, **{**PLAIN, **options})
        return Replica(RaftNode(replica_options, log, applied_index=begin), log)

    return make
