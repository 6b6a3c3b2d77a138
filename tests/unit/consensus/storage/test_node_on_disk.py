"""A whole group whose logs are on disks: what it acknowledged outlives the restart of everybody."""

from __future__ import annotations

from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import HardState, RaftSnapshot
from onceflow_consensus.raft.node import RaftNode
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.testing.memory_disk import MemoryDisk

PEERS = (1, 2, 3)


class DiskGroup:
    def __init__(self):
        self.disks = {peer: MemoryDisk() for peer in PEERS}
        self.applied = {peer: [] for peer in PEERS}
        members = configuration_of(frozenset(PEERS))
        for disk in self.disks.values():
            begin = WriteRequest((), HardState(1, 0, 1), RaftSnapshot(1, 1, members))
            DurableLog(disk, 2048).persist([begin])
        self.start()

    def start(self):
        self.logs = {peer: DurableLog(disk, 2048) for peer, disk in self.disks.items()}
        self.applied = {peer: [] for peer in PEERS}
        self.nodes = {
            peer: RaftNode(RaftOptions(peer), log, applied_index=log.newest_snapshot.index)
            for peer, log in self.logs.items()
        }

    def work(self):
        messages = []
        while messages or any(node.has_ready() for node in self.nodes.values()):
            for peer, node in self.nodes.items():
                if node.has_ready():
                    ready = node.ready()
                    messages += ready.messages
                    request = WriteRequest(ready.entries, ready.hard_state, ready.raft_snapshot)
                    self.logs[peer].persist([request])
                    self.logs[peer].taken(request)
                    messages += ready.messages_after_persist
                    self.applied[peer] += [entry.data for entry in ready.committed_entries]
                    node.advance()
            for message in messages[:]:
                messages.remove(message)
                self.nodes[message.to].step(message)


def test_a_group_that_restarts_as_a_whole_has_lost_nothing():
    group = DiskGroup()
    group.nodes[1].campaign()
    group.work()
    for number in range(40):
        group.nodes[1].propose(b"%d" % number + b"x" * 60)
    group.work()
    before = group.applied[1]
    assert group.applied[2] == group.applied[3] == before
    assert len(before) == 41
    group.start()
    assert {node.state.role for node in group.nodes.values()} == {Role.FOLLOWER}
    group.nodes[2].campaign()
    group.work()
    for applied in group.applied.values():
        assert applied == [*before, b""]
