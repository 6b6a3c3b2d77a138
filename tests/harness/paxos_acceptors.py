"""A Paxos replica on its own: what it wants done is done at once, the test plays its peers."""

from __future__ import annotations

from onceflow_consensus.paxos.messages import PaxosKind, PaxosMessage
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import Entry, EntryKind, HardState, RaftSnapshot
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.testing.memory_log import MemoryLog

K = PaxosKind


def entries(*pairs):
    return tuple(Entry(term, index, data=b"%d" % term) for term, index in pairs)


def kinds(messages):
    return [message.kind for message in messages]


class Acceptors:
    """A replica, its disk, and what it sent; everything is done at once unless a test waits."""

    def __init__(self, terms=(), *, peer=1, voters=(1, 2, 3), learners=(), hard=None, **options):
        members = configuration_of(frozenset(voters), frozenset(learners))
        self.log = MemoryLog(RaftSnapshot(1, 1, members))
        self.log.put(tuple(Entry(term, 2 + i, data=b"%d" % term) for i, term in enumerate(terms)))
        self.log.hard_state = hard or HardState(max(terms, default=1), 9, 1)
        options = {"election_ticks": 4, **options}
        self.node = PaxosNode(RaftOptions(peer, **options), self.log, applied_index=1)
        self.peer, self.applied = peer, []

    @classmethod
    def again(cls, before):
        """Start again from the same disk."""
        replica = cls.__new__(cls)
        replica.log, replica.peer, replica.applied = before.log, before.peer, []
        replica.node = PaxosNode(before.state.options, before.log, applied_index=1)
        return replica

    @property
    def state(self):
        return self.node.state

    def work(self):
        sent = []
        while self.node.has_ready():
            ready = self.node.ready()
            if ready.raft_snapshot is not None:
                self.log.install(ready.raft_snapshot)
            self.log.put(ready.entries)
            self.log.hard_state = ready.hard_state or self.log.hard_state
            sent += [*ready.messages, *ready.messages_after_persist]
            for entry in ready.committed_entries:
                self.applied.append(entry)
                if entry.kind is not EntryKind.NORMAL:
                    self.node.apply_conf_change(entry)
            self.node.advance()
        return [m for m in sent if m.kind not in (K.HEARTBEAT, K.HEARTBEAT_REPLY)]

    def receive(self, kind, sender, term=None, **fields):
        term = self.state.promised.number if term is None else term
        self.node.step(PaxosMessage(kind, sender, self.peer, term, **fields))
        return self.work()

    def promise(self, sender, last=(1, 1), **fields):
        fields.setdefault("commit_index", 1)
        return self.receive(K.PROMISE, sender, log_term=last[0], index=last[1], **fields)

    def accepted(self, sender, index=None, **fields):
        index = self.state.log.last_index if index is None else index
        return self.receive(K.ACCEPTED, sender, index=index, **fields)

    def prepare(self):
        self.node.campaign()
        return self.work()

    def lead(self):
        self.prepare()
        self.promise(2)
        self.accepted(2)
        assert self.state.phase is Phase.ACCEPT
        return self

    def terms(self):
        log = self.state.log
        return [log.term_at(index) for index in range(2, log.last_index + 1)]

    def answers(self, peer, *, elected=None, is_content=True):
        """Let a peer answer the heartbeat of this tick."""
        elected = elected or self.state.elections.elected
        self.receive(
            K.HEARTBEAT_REPLY,
            peer,
            0,
            vote=elected.owner,
            log_term=elected.number,
            index=self.state.elections.now,
            rejected=not is_content,
        )
