"""A durable log that crashes at any operation of its disk comes back with all it acknowledged.

Each seed decides the writes, the operation at which the crash falls, and which un-synced sectors
and names survive it. What was not acknowledged may be there or not, but only as a whole.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import EMPTY_HARD_STATE, Entry, HardState, RaftSnapshot
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.testing.memory_disk import MemoryDisk

MEMBERS = configuration_of(frozenset({1, 2, 3}))
SEGMENT_BYTES = 1500


class CrashingDisk(MemoryDisk):
    """Fails at the operation that the test chose, and at all that follow."""

    operations_left = 10**9

    def _may_fail(self, operation):
        if operation != "read":
            self.operations_left -= 1
        if self.operations_left < 0:
            raise StorageFailed("crash")

    @classmethod
    def found_after(cls, disk, chance):
        survived = disk.crash(chance)
        return cls({name: survived.read(name) for name in survived.names()})


@dataclass(frozen=True)
class Content:
    entries: tuple = ()
    hard_state: HardState = EMPTY_HARD_STATE
    first_index: int = 1
    snapshot_index: int = 0

    def after(self, request):
        changed = self
        received = request.raft_snapshot
        if received is not None:
            changed = replace(
                changed, entries=(), first_index=received.index + 1, snapshot_index=received.index
            )
        if request.entries:
            first = request.entries[0].index
            kept = tuple(entry for entry in changed.entries if entry.index < first)
            changed = replace(changed, entries=kept + request.entries)
        if request.hard_state is not None:
            changed = replace(changed, hard_state=request.hard_state)
        if request.own_snapshot is not None:
            changed = replace(changed, snapshot_index=request.own_snapshot.index)
        if request.compacted is not None:
            kept = tuple(e for e in changed.entries if e.index > request.compacted.index)
            changed = replace(changed, entries=kept, first_index=request.compacted.index + 1)
        return changed


def content_of(log):
    held = log.entries(log.first_index, log.last_index + 1, 10**9)
    return Content(held, log.hard_state, log.first_index, log.newest_snapshot.index)


def random_request(chance, log):
    term = max(log.hard_state.term, 1) + (chance.random() < 0.2)
    commit_index = max(log.hard_state.commit_index, 1)
    choice = chance.random()
    if choice < 0.10:
        index = log.last_index + chance.randint(1, 5)
        data = bytes(chance.randrange(1500))
        received = RaftSnapshot(index, term, MEMBERS, data)
        return WriteRequest((), HardState(term, 0, index), received)
    if choice < 0.20 and commit_index > log.newest_snapshot.index:
        own = RaftSnapshot(commit_index, log.term_at(commit_index), MEMBERS, b"own")
        return WriteRequest(own_snapshot=own)
    if choice < 0.30:
        return log.compaction_to(chance.randint(log.first_index, log.last_index + 1))
    first = chance.randint(commit_index + 1, log.last_index + 1)
    count = chance.randint(0, 4)
    entries = tuple(Entry(term, first + i, data=bytes(chance.randrange(400))) for i in range(count))
    last = entries[-1].index if entries else log.last_index
    vote = chance.randint(0, 3)
    return WriteRequest(entries, HardState(term, vote, chance.randint(commit_index, last)))


def is_between(found, before, after):
    """Whether a crash on the way from one content to the other may leave this one."""
    if found in (before, after):
        return True
    term_and_vote = [(h.term, h.vote) for h in (before.hard_state, after.hard_state)]
    if (found.hard_state.term, found.hard_state.vote) not in term_and_vote:
        return False
    # Term and vote precede a snapshot's file, which precedes the drop of the log, or the drop was
    # finished at the start.
    logs = [(before.entries, before.first_index), (after.entries, after.first_index)]
    snapshots = (before.snapshot_index, after.snapshot_index)
    return (found.entries, found.first_index) in logs and found.snapshot_index in snapshots


@pytest.mark.parametrize("seed", range(150))
def test_everything_acknowledged_survives_a_crash_at_any_operation(seed):
    chance = random.Random(seed)
    disk = CrashingDisk()
    log = DurableLog(disk, SEGMENT_BYTES)
    first = WriteRequest(hard_state=HardState(1, 0, 1), raft_snapshot=RaftSnapshot(1, 1, MEMBERS))
    log.persist([first])
    log.taken(first)
    crashes = 0
    disk.operations_left = chance.randint(0, 40)
    for _ in range(60):
        before = content_of(log)
        request = random_request(chance, log)
        try:
            log.persist([request])
        except StorageFailed:
            crashes += 1
            log = None
            while log is None:
                disk = CrashingDisk.found_after(disk, chance)
                disk.operations_left = chance.choice([3, 10**9])
                try:
                    log = DurableLog(disk, SEGMENT_BYTES)
                except StorageFailed:
                    continue  # a crash while it recovers
            found = content_of(log)
            assert is_between(found, before, before.after(request)), (before, request, found)
            disk.operations_left = chance.randint(0, 40)
        else:
            log.taken(request)
            assert content_of(log) == before.after(request)
    assert crashes > 0


@pytest.mark.parametrize("seed", range(20))
def test_a_restart_without_a_crash_finds_exactly_what_was_written(seed):
    chance = random.Random(seed)
    disk = MemoryDisk()
    log = DurableLog(disk, SEGMENT_BYTES)
    first = WriteRequest(hard_state=HardState(1, 0, 1), raft_snapshot=RaftSnapshot(1, 1, MEMBERS))
    log.persist([first])
    log.taken(first)
    for _ in range(80):
        requests = [random_request(chance, log)]
        log.persist(requests)
        log.taken(requests[0])
        if chance.random() < 0.3:
            again = DurableLog(disk, SEGMENT_BYTES)
            assert content_of(again) == content_of(log)
            log = again
