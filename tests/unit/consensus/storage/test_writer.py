"""The writer's thread: order, shared syncs, failures told once, an orderly end."""

from __future__ import annotations

import threading

import pytest

from onceflow_consensus.errors import StorageFailed
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.messages import Entry, HardState, RaftSnapshot
from onceflow_consensus.storage import writer as writer_module
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.writer import LogWriter
from onceflow_consensus.testing.memory_disk import MemoryDisk

WAIT_S = 20


class SlowDisk(MemoryDisk):
    """A disk whose syncs wait until the test lets them go on."""

    def __init__(self):
        super().__init__()
        self.may_sync = threading.Event()
        self.may_sync.set()
        self.is_syncing = threading.Event()

    def sync(self, name):
        self.is_syncing.set()
        assert self.may_sync.wait(WAIT_S)
        super().sync(name)


class Receiver:
    def __init__(self):
        self.batches = []
        self.failures = []
        self.told = threading.Condition()

    def written(self, batch):
        with self.told:
            self.batches.append(batch)
            self.told.notify()

    def failed(self, failure):
        with self.told:
            self.failures.append(failure)
            self.told.notify()

    def wait(self, is_enough):
        with self.told:
            assert self.told.wait_for(lambda: is_enough(self), WAIT_S)

    @property
    def count(self):
        return sum(map(len, self.batches))


def begun():
    disk = SlowDisk()
    log = DurableLog(disk, 4096)
    members = configuration_of(frozenset({1}))
    log.persist([WriteRequest((), HardState(1, 0, 1), RaftSnapshot(1, 1, members))])
    receiver = Receiver()
    return disk, receiver, LogWriter(log, receiver.written, receiver.failed)


def request(index, size=10):
    return WriteRequest((Entry(1, index, data=bytes(size)),))


def test_what_gathers_during_a_sync_shares_the_next_one_and_keeps_its_order():
    disk, receiver, writer = begun()
    disk.is_syncing.clear()
    disk.may_sync.clear()
    writer.submit(request(2))
    assert disk.is_syncing.wait(WAIT_S)
    for index in range(3, 50):
        writer.submit(request(index))
    disk.may_sync.set()
    receiver.wait(lambda r: r.count == 48)
    assert [len(batch) for batch in receiver.batches] == [1, 47]
    indices = [item.entries[0].index for batch in receiver.batches for item in batch]
    assert indices == list(range(2, 50))
    writer.close()
    assert DurableLog(disk, 4096).last_index == 49


def test_a_batch_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(writer_module, "MAX_BATCH_BYTES", 100)
    disk, receiver, writer = begun()
    disk.is_syncing.clear()
    disk.may_sync.clear()
    writer.submit(request(2))
    assert disk.is_syncing.wait(WAIT_S)
    for index in range(3, 9):
        writer.submit(request(index, 60))
    disk.may_sync.set()
    receiver.wait(lambda r: r.count == 7)
    assert [len(batch) for batch in receiver.batches] == [1] * 7
    writer.close()


def test_a_failure_is_told_once_and_nothing_is_taken_afterwards():
    disk, receiver, writer = begun()
    disk.fail_next = "write"
    writer.submit(request(2))
    receiver.wait(lambda r: r.failures)
    with pytest.raises(StorageFailed):
        writer.submit(request(3))
    writer.close()
    assert (receiver.batches, len(receiver.failures)) == ([], 1)


def test_closing_writes_what_waits_and_refuses_more():
    disk, receiver, writer = begun()
    writer.submit(request(2))
    writer.close()
    writer.close()
    assert receiver.count == 1
    with pytest.raises(StorageFailed, match="closed"):
        writer.submit(request(3))
    assert DurableLog(disk, 4096).last_index == 2


def test_a_disk_that_hangs_is_told_when_closing(monkeypatch):
    monkeypatch.setattr(writer_module, "_JOIN_S", 0.05)
    disk, _, writer = begun()
    disk.is_syncing.clear()
    disk.may_sync.clear()
    writer.submit(request(2))
    assert disk.is_syncing.wait(WAIT_S)
    with pytest.raises(StorageFailed, match="did not finish"):
        writer.close()
    disk.may_sync.set()
