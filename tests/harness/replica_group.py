"""Groups of replicas of either engine, driven through the door, on links that a test cuts.

Time passes when the test says so: each tick reaches every running replica once, then messages flow
until nobody has anything to do. Links are cut in one direction or both; what is sent over a cut
link is lost. A crash keeps the disk and nothing else.
"""

from __future__ import annotations

from contextlib import suppress

from onceflow_consensus.errors import ConsensusError
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import (
    LOCAL_THREADS,
    EntryKind,
    HardState,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.replica import start_replica
from onceflow_consensus.testing.memory_log import MemoryLog

ELECTION_TICKS = 5
ROUNDS_MAX = 400


class Disk(MemoryLog):
    """What survives a crash: log, hard state, and the state machine with its members."""

    def __init__(self, begun_with):
        super().__init__(begun_with)
        self.machine = begun_with
        self.newest_snapshot = lambda: self.machine

    def initial_state(self):
        return self.hard_state, self.machine.configuration

    def write(self, hard_state, entries, received):
        if received is not None:
            self.install(received)
            self.machine = received
        self.put(entries)
        if hard_state is not None:
            self.hard_state = hard_state

    def compact_all(self):
        if self.machine.index >= self.first_index:
            self.compact(self.machine.index)


class ReplicaGroup:
    def __init__(self, engine, voters=(1, 2, 3), *, learners=(), newcomers=(), **options):
        self.engine = engine
        self.options = {"election_ticks": ELECTION_TICKS, **options}
        self.storage = self.options.get("storage", StorageMode.READY)
        self.peers = [*voters, *learners, *newcomers]
        self.cuts, self.messages = set(), []
        self.stalled, self.backlog = set(), []
        self.disks, self.replicas, self.reads = {}, {}, {peer: [] for peer in self.peers}
        members = configuration_of(frozenset(voters), frozenset(learners))
        for peer in self.peers:
            # The first members stand in no entry: they come with a snapshot, to newcomers as well.
            begun = RaftSnapshot(1, 1, members)
            self.disks[peer] = Disk(RaftSnapshot() if peer in newcomers else begun)
            self.start(peer)

    def start(self, peer):
        disk = self.disks[peer]
        options = RaftOptions(peer, **self.options)
        self.replicas[peer] = start_replica(
            self.engine, options, disk, applied_index=disk.machine.index
        )

    def crash(self, peer):
        del self.replicas[peer]
        self.messages = [m for m in self.messages if peer not in (m.to, m.sender)]

    def cut(self, one, other):
        self.cuts |= {(one, other), (other, one)}

    def isolate(self, peer):
        for other in self.peers:
            self.cut(peer, other)

    def connect_only(self, *links):
        """Cut every link but these."""
        for one in self.peers:
            self.isolate(one)
        for one, other in links:
            self.cuts -= {(one, other), (other, one)}

    def heal(self):
        self.cuts = set()

    def leading(self):
        """The running replica that leads with the highest term, None if none does."""
        found = [(r.status.term, p) for p, r in self.replicas.items() if self.leads(p)]
        return max(found)[1] if found else None

    def leads(self, peer):
        return self.replicas[peer].status.role is Role.LEADER

    def data(self, peer):
        return self.disks[peer].machine.data

    def members(self, peer):
        return self.disks[peer].machine.configuration

    def tick(self, count=1):
        for _ in range(count):
            for peer, replica in self.replicas.items():
                replica.tick(ELECTION_TICKS + self.peers.index(peer) % ELECTION_TICKS)
            self.settle()

    def until(self, condition, ticks=60):
        for _ in range(ticks):
            if condition():
                return
            self.tick()
        raise AssertionError(f"not within {ticks} ticks")

    def elect(self):
        self.until(lambda: self.leading() is not None)
        return self.leading()

    def settle(self):
        for _ in range(ROUNDS_MAX):
            worked = [peer for peer in self.replicas if self.work(peer)]
            taken, self.messages = self.messages, []
            for message in taken:
                self.deliver(message)
            if not worked and not taken:
                return
        raise AssertionError("the group does not come to rest")

    def deliver(self, message):
        if message.to not in self.replicas or (message.sender, message.to) in self.cuts:
            return
        with suppress(ConsensusError):
            self.replicas[message.to].step(message)

    def send(self, messages):
        self.messages.extend(messages)
        for message in messages:
            sends_state = message.raft_snapshot is not None and message.to not in LOCAL_THREADS
            if sends_state and message.sender in self.replicas:
                is_lost = (message.sender, message.to) in self.cuts
                report = Report.SNAPSHOT_FAILED if is_lost else Report.SNAPSHOT_DELIVERED
                self.replicas[message.sender].report(message.to, report)

    def work(self, peer):
        replica, disk = self.replicas[peer], self.disks[peer]
        if not replica.has_ready():
            return False
        ready = replica.ready()
        self.reads[peer] += ready.read_states
        self.send(ready.messages)
        if peer in self.stalled:
            self.backlog.append((peer, ready))
            return True
        if self.storage is StorageMode.MESSAGES:
            self.perform(peer, ready)
            return True
        disk.write(ready.hard_state, ready.entries, ready.raft_snapshot)
        self.send(ready.messages_after_persist)
        self.apply(peer, ready.committed_entries)
        replica.advance()
        return True

    def release(self):
        """Let the disks go on that were stalled; only with local threads can a replica run on."""
        backlog, self.backlog, self.stalled = self.backlog, [], set()
        for peer, ready in backlog:
            self.perform(peer, ready)
        self.settle()

    def perform(self, peer, ready):
        done = []
        append = ready.storage_append
        if append is not None:
            hard_state = HardState(append.term, append.vote, append.commit_index)
            told = None if ready.hard_state is None else hard_state
            self.disks[peer].write(told, append.entries, append.raft_snapshot)
            done += append.responses
        if ready.storage_apply is not None:
            self.apply(peer, ready.storage_apply.entries)
            done += ready.storage_apply.responses
        for message in done:
            if message.to == peer:
                self.replicas[peer].step(message)
            else:
                self.send([message])

    def apply(self, peer, entries):
        disk = self.disks[peer]
        for entry in entries:
            if entry.index <= disk.machine.index:
                continue
            configuration, data = disk.machine.configuration, entry.data
            if entry.kind is not EntryKind.NORMAL:
                configuration, data = self.replicas[peer].apply_conf_change(entry), b""
            if configuration is None:
                return
            state = disk.machine.data + data
            disk.machine = RaftSnapshot(entry.index, entry.term, configuration, state)

    def propose(self, *payloads, at=None):
        self.replicas[at or self.elect()].propose(*payloads)
        self.settle()

    def change(self, change):
        self.replicas[self.elect()].propose_conf_change(change)
        self.settle()

    def agree_on(self, data, peers=None):
        """Wait until the state machines of these, or of all that run, hold exactly this."""
        peers = peers or list(self.replicas)
        self.until(lambda: all(self.data(peer) == data for peer in peers))
