"""Whole Paxos groups under loss, delay, duplication, crashes, partitions and membership changes.

Each seed decides everything. After every step it is checked that one replica at most leads per
ballot number, and that what was decided once stays decided and equal everywhere; from time to time,
that logs which agree at a position agree below it. Reads must reflect all that was decided before
they were asked for. At the end the network heals and the group must agree again. A failure names
its seed.
"""

from __future__ import annotations

import random

import pytest

from onceflow_consensus.errors import ConsensusError
from onceflow_consensus.paxos.node import PaxosNode
from onceflow_consensus.paxos.roles import Phase
from onceflow_consensus.raft.confchange import (
    ChangeOp,
    ConfChange,
    SingleChange,
    Transition,
)
from onceflow_consensus.raft.configuration import EMPTY_CONFIGURATION, configuration_of
from onceflow_consensus.raft.messages import (
    EMPTY_HARD_STATE,
    EntryKind,
    HardState,
    RaftSnapshot,
)
from onceflow_consensus.raft.node import Report
from onceflow_consensus.raft.options import RaftOptions, StorageMode
from onceflow_consensus.raft.progress import ProgressState
from onceflow_consensus.testing.memory_log import MemoryLog

PEERS = range(1, 6)
FIRST_MEMBERS = configuration_of(frozenset({1, 2, 3}))
STEPS = 6000


class Disk(MemoryLog):
    """What survives a crash: log, hard state, and the state machine with its members."""

    def __init__(self, begun_with):
        super().__init__(begun_with)
        self.machine = begun_with

    def initial_state(self):
        return self.hard_state, self.machine.configuration

    def write(self, hard_state, entries, received):
        if received is not None:
            self.install(received)
            self.machine = received
        self.put(entries)
        if hard_state != EMPTY_HARD_STATE:
            self.hard_state = hard_state


class World:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.storage = self.random.choice(list(StorageMode))
        self.features = {
            "max_message_bytes": self.random.choice([0, 20, 10**6]),
            "max_inflight_messages": self.random.choice([1, 3, 100]),
            "max_applying_bytes": self.random.choice([1, 30, 10**6]),
        }
        self.messages = []
        self.leaders = {}
        self.committed = {}
        self.reads = {}
        self.proposed = 0
        self.confirmed_reads = self.snapshots = self.crashes = 0
        self.disks, self.nodes, self.work = {}, {}, {}
        self.states, self.checked = {}, {}
        for peer in PEERS:
            members = FIRST_MEMBERS if peer in FIRST_MEMBERS.peer_ids else EMPTY_CONFIGURATION
            begun = RaftSnapshot(1, 1, members) if peer <= 3 else RaftSnapshot()
            self.disks[peer] = Disk(begun)
            self.disks[peer].newest_snapshot = lambda peer=peer: self.disks[peer].machine
            self.start(peer)

    def start(self, peer):
        disk = self.disks[peer]
        options = RaftOptions(
            peer, election_ticks=4, heartbeat_ticks=1, storage=self.storage, **self.features
        )
        self.nodes[peer] = PaxosNode(options, disk, applied_index=disk.machine.index)
        self.work[peer] = ([], [])
        self.checked[peer] = 0

    def apply(self, peer, entries):
        disk, node = self.disks[peer], self.nodes[peer]
        for entry in entries:
            if entry.index <= disk.machine.index:
                continue  # a snapshot was installed meanwhile
            assert entry.index == disk.machine.index + 1
            configuration = disk.machine.configuration
            data = entry.data
            if entry.kind is not EntryKind.NORMAL:
                configuration = node.apply_conf_change(entry)
                data = b""
            if configuration is None:
                return  # a snapshot is about to be installed
            state = disk.machine.data + data
            disk.machine = RaftSnapshot(entry.index, entry.term, configuration, state)

    def send(self, messages):
        for message in messages:
            if message.to == message.sender or message.sender > 2**63:
                self.messages.append(message)
                continue
            fate = self.random.random()
            if fate < self.loss:
                continue
            self.messages.append(message)
            if fate > 1 - self.duplication:
                self.messages.append(message)

    def do_ready(self, peer, *, crashes=False):
        node, disk = self.nodes[peer], self.disks[peer]
        if not node.has_ready():
            return
        ready = node.ready()
        self.snapshots += ready.raft_snapshot is not None
        self.take_reads(ready.read_states)
        self.send(ready.messages)
        if self.storage is StorageMode.MESSAGES:
            appends, applies = self.work[peer]
            appends += [ready.storage_append] if ready.storage_append else []
            applies += [ready.storage_apply] if ready.storage_apply else []
            return
        if not crashes or self.random.random() < 0.5:
            disk.write(ready.hard_state or EMPTY_HARD_STATE, ready.entries, ready.raft_snapshot)
        if crashes:
            # Before or after the write, and before anything that rests on it is sent.
            self.crash(peer)
            return
        self.send(ready.messages_after_persist)
        self.apply(peer, ready.committed_entries)
        node.advance()

    def do_thread(self, peer, which):
        queue = self.work[peer][which]
        if not queue:
            return
        item = queue.pop(0)
        if which == 0:
            hard_state = HardState(item.term, item.vote, item.commit_index)
            self.disks[peer].write(hard_state, item.entries, item.raft_snapshot)
        else:
            self.apply(peer, item.entries)
        self.send(item.responses)

    def crash(self, peer):
        self.crashes += 1
        self.messages = [
            m
            for m in self.messages
            if not (m.to == peer and (m.sender == peer or m.sender > 2**63))
        ]
        self.start(peer)

    def take_reads(self, read_states):
        for read in read_states:
            floor = self.reads[read.request_context]
            assert read.index >= floor, "a read misses what was committed before it"
            self.confirmed_reads += 1

    def attempt(self, action, *arguments):
        try:
            action(*arguments)
        except ConsensusError:
            return False
        return True

    def deliver(self):
        if not self.messages:
            return
        position = self.random.randrange(min(len(self.messages), 12))
        message = self.messages[position]
        # The answers of local threads keep their order; others may overtake.
        is_local = message.to == message.sender or message.sender > 2**63
        if is_local:
            position = next(
                i
                for i, m in enumerate(self.messages)
                if m.to == message.to and (m.to == m.sender or m.sender > 2**63)
            )
        message = self.messages.pop(position)
        if not is_local and (message.sender, message.to) in self.cut:
            return
        self.attempt(self.nodes[message.to].step, message)

    def step(self):
        peer = self.random.choice(list(PEERS))
        choice = self.random.random()
        if choice < 0.50:
            for _ in range(self.random.randrange(4)):
                self.deliver()
        elif choice < 0.75:
            self.do_ready(peer, crashes=self.random.random() < 0.01)
        elif choice < 0.87:
            self.do_thread(peer, 0)
            self.do_thread(peer, self.random.randrange(2))
        elif choice < 0.93:
            self.nodes[peer].tick(self.random.randrange(4, 8))
        elif choice < 0.985:
            self.ask(peer)
        else:
            self.disturb(peer)
        self.check()

    def ask(self, peer):
        node = self.nodes[peer]
        choice = self.random.random()
        if choice < 0.6:
            self.proposed += 1
            self.attempt(node.propose, b"%d," % self.proposed)
        elif choice < 0.8:
            self.attempt(node.propose_conf_change, self.random_change())
        else:
            context = b"r%d" % len(self.reads)
            self.reads[context] = max(self.committed, default=0)
            self.attempt(node.read_index, context)

    def disturb(self, peer):
        node = self.nodes[peer]
        choice = self.random.randrange(8)
        if choice == 0:
            self.compact(peer)
        elif choice == 1:
            self.crash(peer)
        elif choice == 2:
            node.transfer_leadership(self.random.choice(list(PEERS)))
        elif choice == 3:
            node.report(self.random.choice(list(PEERS)), self.random.choice(list(Report)))
        elif choice == 4:
            node.campaign()
        else:
            pairs = [(a, b) for a in PEERS for b in PEERS if a != b]
            self.cut = set(self.random.sample(pairs, self.random.choice([0, 0, 0, 4])))

    def random_change(self):
        if self.random.random() < 0.2:
            return ConfChange()
        singles = tuple(
            SingleChange(self.random.choice(list(ChangeOp)), self.random.choice(list(PEERS)))
            for _ in range(self.random.choice([1, 1, 2, 3]))
        )
        return ConfChange(singles, self.random.choice(list(Transition)))

    def compact(self, peer):
        disk = self.disks[peer]
        index = min(self.nodes[peer].status.applied_index, disk.last_index)
        if index >= disk.first_index:
            disk.compact(self.random.randint(disk.first_index, index))

    def check(self):
        for peer in PEERS:
            state = self.nodes[peer].state
            if state.phase is Phase.ACCEPT:
                assert self.leaders.setdefault(state.promised.number, peer) == peer, (
                    "two leaders of a ballot"
                )
            log = state.log
            for index in range(max(log.first_index, self.checked[peer] + 1), log.commit_index + 1):
                (entry,) = log.slice(index, index + 1, 0)
                assert self.committed.setdefault(index, entry) == entry, "committed entry changed"
            self.checked[peer] = log.commit_index
            machine = self.disks[peer].machine
            known = self.states.setdefault(machine.index, machine)
            assert known.data == machine.data, "state machines differ"
            assert known.configuration == machine.configuration, "configurations differ"

    def check_matching_logs(self):
        for one in PEERS:
            for other in PEERS:
                a, b = self.nodes[one].state.log, self.nodes[other].state.log
                low = max(a.first_index, b.first_index)
                high = min(a.last_index, b.last_index)
                same = [a.term_at(i) == b.term_at(i) for i in range(low, high + 1)]
                last = max((i for i, equal in enumerate(same) if equal), default=-1)
                assert all(same[: last + 1]), "logs match at an index and differ below"

    def run(self):
        self.loss, self.duplication, self.cut = 0.05, 0.05, set()
        for number in range(STEPS):
            self.step()
            if number % 50 == 0:
                self.check_matching_logs()

    def heal(self):
        self.loss = self.duplication = 0.0
        self.cut = set()
        is_marked = False
        for round_number in range(600):
            self.work_once(ticks=round_number % 5 == 0)
            self.check()
            leading = [p for p in PEERS if self.nodes[p].state.phase is Phase.ACCEPT]
            if not leading:
                continue
            node = self.nodes[leading[-1]]
            if not is_marked and round_number > 300:
                is_marked = self.attempt(node.propose, b"marker,")
            voters = node.state.tracker.voters
            if is_marked and all(self.disks[p].machine.data.endswith(b"marker,") for p in voters):
                return
        raise AssertionError("the healed group does not agree")

    def work_once(self, *, ticks):
        for peer in PEERS:
            node = self.nodes[peer]
            if ticks:
                node.tick(self.random.randrange(4, 8))
                for follower, progress in node.status.progress.items():
                    # A driver tells how the sending of a snapshot went.
                    if progress.state is ProgressState.SNAPSHOT:
                        node.report(follower, Report.SNAPSHOT_DELIVERED)
            for _ in range(3):
                self.do_ready(peer)
                self.do_thread(peer, 0)
                self.do_thread(peer, 1)
        for _ in range(len(self.messages)):
            self.deliver()


SEEDS = range(30)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_group_stays_safe_and_agrees_after_healing(seed):
    world = World(seed)
    world.run()
    world.heal()
    world.check_matching_logs()


def test_the_worlds_exercise_what_they_claim_to():
    worlds = [World(seed) for seed in SEEDS[:10]]
    for world in worlds:
        world.run()
    entries = [entry for world in worlds for entry in world.committed.values()]
    assert sum(len(world.leaders) for world in worlds) > 20
    assert sum(entry.data != b"" for entry in entries) > 100
    assert sum(entry.kind is not EntryKind.NORMAL for entry in entries) > 20
    assert sum(world.confirmed_reads for world in worlds) > 20
    assert sum(world.snapshots for world in worlds) > 2
    assert sum(world.crashes for world in worlds) > 20
    assert {world.storage for world in worlds} == set(StorageMode)
