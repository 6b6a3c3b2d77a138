"""One suite for every engine: what a group of replicas owes its users, seen through the door."""

from __future__ import annotations

import pytest

from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import EntryKind, RaftSnapshot
from onceflow_consensus.raft.options import RaftOptions
from onceflow_consensus.raft.roles import Role
from onceflow_consensus.replica import Engine, start_replica
from onceflow_consensus.testing.memory_log import MemoryLog


@pytest.mark.parametrize("engine", Engine)
def test_a_lone_voter_elects_itself_and_applies_what_it_is_given(engine):
    log = MemoryLog(RaftSnapshot(configuration=configuration_of(frozenset({1}))))
    replica = start_replica(engine, RaftOptions(peer_id=1), log)
    applied = []
    for _ in range(40):
        replica.tick(10)
        if replica.status.role is Role.LEADER and not applied:
            replica.propose(b"a", b"b")
        while replica.has_ready():
            ready = replica.ready()
            log.put(ready.entries)
            applied += [e for e in ready.committed_entries if e.kind is EntryKind.NORMAL and e.data]
            replica.advance()
    assert [entry.data for entry in applied] == [b"a", b"b"]
