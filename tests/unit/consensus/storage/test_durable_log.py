"""The durable log: what comes back after a restart, what is cut off, what is refused."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from onceflow_consensus.errors import (
    InvariantViolation,
    StorageCorrupt,
    StorageFailed,
    StorageLocked,
    StorageUnknown,
)
from onceflow_consensus.quorum.joint import JointVoters
from onceflow_consensus.raft.configuration import Configuration, configuration_of
from onceflow_consensus.raft.messages import Entry, EntryKind, HardState, RaftSnapshot
from onceflow_consensus.raft.stable import StableLog
from onceflow_consensus.storage.checksum import crc32c
from onceflow_consensus.storage.disk import OsDisk
from onceflow_consensus.storage.durable_log import DurableLog, WriteRequest
from onceflow_consensus.storage.records import (
    Base,
    Closed,
    DamagedError,
    decode_configuration,
    encode_batch,
    encode_configuration,
    encode_record,
    read_batch,
    read_records,
)
from onceflow_consensus.storage.segments import SEGMENT_HEADER_BYTES, segment_names
from onceflow_consensus.storage.snapshots import SnapshotStore
from onceflow_consensus.testing.memory_disk import MemoryDisk, PowerCutError

MEMBERS = configuration_of(frozenset({1, 2, 3}))
MANY = 10**9


def entries(first, *terms, data=b"data"):
    return tuple(Entry(term, first + i, data=data) for i, term in enumerate(terms))


def write(log, *requests):
    log.persist(list(requests))
    for request in requests:
        log.taken(request)


def terms_of(log):
    return [log.term_at(index) for index in range(log.first_index, log.last_index + 1)]


def all_entries(log):
    return log.entries(log.first_index, log.last_index + 1, MANY)


def begun(disk=None, segment_bytes=4096):
    """A log with members, three entries and a vote."""
    disk = disk or MemoryDisk()
    log = DurableLog(disk, segment_bytes)
    write(
        log,
        WriteRequest(hard_state=HardState(1, 0, 1), raft_snapshot=RaftSnapshot(1, 1, MEMBERS)),
        WriteRequest(entries(2, 1, 1, 2), HardState(2, 3, 2)),
    )
    return disk, log


@pytest.fixture(params=["memory", "real"])
def new_disk(request, tmp_path):
    opened = []

    def make():
        while opened:
            opened.pop().close()
        disk = OsDisk(tmp_path / "log") if request.param == "real" else shared
        opened.append(disk)
        return disk

    shared = MemoryDisk()
    yield make
    while opened:
        opened.pop().close()


def test_a_log_comes_back_as_it_was_written(new_disk):
    _, log = begun(new_disk())
    wanted = {name for name in vars(StableLog) if not name.startswith("_")}
    assert wanted <= set(dir(log))
    again = DurableLog(new_disk(), 4096)
    assert all_entries(again) == all_entries(log) == entries(2, 1, 1, 2)
    assert again.initial_state() == (HardState(2, 3, 2), MEMBERS)
    assert (again.first_index, again.last_index, again.term_at(1), again.term_at(9)) == (
        2,
        4,
        1,
        None,
    )
    assert again.latest_snapshot().index == 1
    assert again.torn_bytes == 0


def test_an_empty_directory_is_an_empty_log(new_disk):
    log = DurableLog(new_disk(), 4096)
    assert (log.first_index, log.last_index, log.latest_snapshot()) == (1, 0, None)
    again = DurableLog(new_disk(), 4096)
    assert again.last_index == 0


def test_entries_that_were_replaced_do_not_come_back(new_disk):
    _, log = begun(new_disk())
    write(log, WriteRequest(entries(3, 5, 5, 5)))
    assert terms_of(log) == [1, 5, 5, 5]
    write(log, WriteRequest(entries(4, 6)))
    assert terms_of(DurableLog(new_disk(), 4096)) == terms_of(log) == [1, 5, 6]


def test_many_segments_follow_one_another_and_go_when_their_entries_are_dropped(new_disk):
    disk = new_disk()
    _, log = begun(disk, 1024)
    for index in range(5, 60):
        write(log, WriteRequest(entries(index, 2, data=b"x" * 100), HardState(2, 3, index)))
    assert len(segment_names(disk)) > 5
    own = RaftSnapshot(50, 2, MEMBERS, b"state")
    write(log, WriteRequest(own_snapshot=own))
    write(log, log.compaction_to(40))
    assert log.first_index == 41
    before = len(segment_names(disk))
    write(log, log.compaction_to(99))
    assert log.first_index == 51
    assert len(segment_names(disk)) < before < 8
    assert log.compaction_to(50) == WriteRequest()
    again = DurableLog(new_disk(), 1024)
    assert all_entries(again) == all_entries(log)
    assert (again.first_index, again.term_at(50)) == (51, 2)
    assert again.initial_state()[0] == HardState(2, 3, 59)
    write(again, WriteRequest(entries(60, 3)))
    assert DurableLog(new_disk(), 1024).last_index == 60


def test_a_segment_that_begins_with_a_replaced_entry_keeps_the_term_of_the_new_one(new_disk):
    disk = new_disk()
    _, log = begun(disk, 1024)
    write(log, WriteRequest(entries(5, 2, data=b"x" * 700)))
    began = segment_names(disk)[-1]
    # Does not fit beside the entry that it replaces, so the new segment follows the old entry 5.
    write(log, WriteRequest(entries(5, 3, data=b"x" * 700), HardState(3, 1, 5)))
    assert segment_names(disk)[-1] != began
    write(log, WriteRequest(own_snapshot=RaftSnapshot(5, 3, MEMBERS, b"state")))
    write(log, log.compaction_to(5))
    assert began not in segment_names(disk)
    again = DurableLog(new_disk(), 1024)
    assert (again.first_index, again.last_index, again.term_at(5)) == (6, 5, 3)


def test_a_record_larger_than_a_segment_is_kept(new_disk):
    _, log = begun(new_disk(), 1024)
    write(log, WriteRequest(entries(5, 2, data=b"y" * 5000)), WriteRequest(entries(6, 2)))
    assert all_entries(DurableLog(new_disk(), 1024))[-2].data == b"y" * 5000


def test_a_received_snapshot_replaces_the_log_and_entries_follow_it(new_disk):
    _, log = begun(new_disk())
    four = configuration_of(frozenset({1, 2, 3, 4}))
    received = RaftSnapshot(20, 3, four, b"state" * 1000)
    write(
        log,
        WriteRequest(entries(5, 2)),
        WriteRequest(entries(21, 3), HardState(3, 1, 20), raft_snapshot=received),
        WriteRequest(entries(22, 3)),
    )
    for found in (log, DurableLog(new_disk(), 4096)):
        assert (found.first_index, found.last_index, found.term_at(20)) == (21, 22, 3)
        assert found.latest_snapshot() == received
        assert found.initial_state() == (HardState(3, 1, 20), four)


def test_a_crash_while_a_snapshot_is_installed_commits_nothing_of_the_log_that_it_replaces():
    # The entries from 3 on are not those that the snapshot stands for.
    kept_old_log = 0
    for cut_after in range(40):
        disk = MemoryDisk()
        _, log = begun(disk)
        write(log, WriteRequest(entries(2, 3, 3, 3), HardState(3, 1, 2)))
        disk.cut_power_after = cut_after
        install = WriteRequest((), HardState(6, 2, 12), RaftSnapshot(12, 4, MEMBERS))
        with suppress(PowerCutError):
            log.persist([install])
        again = DurableLog(disk.crash(random.Random(cut_after)), 4096)
        if again.newest_snapshot.index == 12:
            assert again.first_index == 13
            continue
        kept_old_log += 1
        assert terms_of(again) == [3, 3, 3]
        assert again.hard_state in (HardState(3, 1, 2), HardState(6, 2, 2))
    assert 0 < kept_old_log < 40


def test_writes_that_wait_share_a_sync():
    disk, log = begun()
    syncs = disk.sync_count
    write(log, *(WriteRequest(entries(index, 2)) for index in range(5, 30)))
    assert disk.sync_count == syncs + 1


def test_a_directory_belongs_to_one_process(tmp_path):
    disk = OsDisk(tmp_path)
    with pytest.raises(StorageLocked, match="another process"):
        OsDisk(tmp_path)
    disk.close()
    disk.close()
    OsDisk(tmp_path).close()


def test_failures_of_the_real_disk_say_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(StorageFailed, match="Check the disk"):
        OsDisk(tmp_path / "file")
    disk = OsDisk(tmp_path / "log")
    for action in (
        lambda: disk.read("absent"),
        lambda: disk.write("absent", 0, b"x"),
        lambda: disk.sync("absent"),
        lambda: disk.rename("absent", "other"),
        lambda: disk.create("no/such/directory", 1),
    ):
        with pytest.raises(StorageFailed, match="the replica stops"):
            action()
    disk.remove("absent")
    disk.close()


@pytest.mark.parametrize("operation", ["write", "sync"])
def test_after_a_failure_nothing_is_written_any_more(operation):
    disk, log = begun()
    disk.fail_next = operation
    with pytest.raises(StorageFailed):
        log.persist([WriteRequest(entries(5, 2))])
    disk.fail_next = None
    with pytest.raises(StorageFailed):
        log.persist([WriteRequest(entries(5, 2))])
    with pytest.raises(StorageFailed):
        log.close()


# Torn tails and damage


def last_segment(disk):
    return segment_names(disk)[-1]


def end_of(disk):
    name = last_segment(disk)
    return name, len(disk.read(name).rstrip(b"\0"))


def test_a_torn_tail_is_cut_off_and_written_over():
    disk, log = begun()
    name, end = end_of(disk)
    write(log, WriteRequest(entries(5, 2, data=b"t" * 300)))
    disk.write(name, end + 40, bytes(400))
    torn = DurableLog(disk, 4096)
    assert (torn.last_index, torn.torn_bytes > 0) == (4, True)
    write(torn, WriteRequest(entries(5, 4)))
    again = DurableLog(disk, 4096)
    assert (terms_of(again), again.torn_bytes) == ([1, 1, 2, 4], 0)


def test_damage_before_a_whole_batch_is_refused_and_says_how_to_rejoin():
    disk, log = begun()
    _, end = end_of(disk)
    write(log, WriteRequest(entries(5, 2)))
    disk.damage(last_segment(disk), end - 3)
    with pytest.raises(StorageCorrupt, match="as a learner"):
        DurableLog(disk, 4096)


def test_damage_anywhere_in_a_closed_log_is_refused():
    disk, log = begun()
    log.close()
    name, end = end_of(disk)
    content = disk.read(name)
    last_batch = content.rfind(b"OFB\x01")
    for offset in range(0, last_batch, 7):
        damaged = MemoryDisk({n: disk.read(n) for n in disk.names()})
        damaged.damage(name, offset)
        with pytest.raises((StorageCorrupt, StorageUnknown)):
            DurableLog(damaged, 4096)
    assert end > last_batch


def test_damage_in_an_older_segment_is_refused():
    disk, log = begun(segment_bytes=512)
    for index in range(5, 30):
        write(log, WriteRequest(entries(index, 2, data=b"x" * 50)))
    first, second, *_ = segment_names(disk)
    for name in (first, second):
        damaged = MemoryDisk({n: disk.read(n) for n in disk.names()})
        damaged.damage(name, 200)
        with pytest.raises(StorageCorrupt):
            DurableLog(damaged, 512)


@pytest.mark.parametrize("position", [1, 2, 3])
def test_a_missing_or_foreign_segment_is_refused(position):
    disk, log = begun(segment_bytes=512)
    for index in range(5, 30):
        write(log, WriteRequest(entries(index, 2, data=b"x" * 50)))
    other, foreign_log = begun(segment_bytes=512)
    for index in range(5, 30):
        write(foreign_log, WriteRequest(entries(index, 2, data=b"x" * 50)))
    names = segment_names(disk)
    files = {name: disk.read(name) for name in disk.names()}
    missing = {name: data for name, data in files.items() if name != names[position]}
    with pytest.raises(StorageCorrupt, match="missing"):
        DurableLog(MemoryDisk(missing), 512)
    foreign = {**files, names[position]: other.read(names[position])}
    with pytest.raises(StorageCorrupt, match="another log"):
        DurableLog(MemoryDisk(foreign), 512)


def with_batch(payload, sequence):
    """A log whose segment ends with a batch of this payload, whatever that is."""
    disk, log = begun()
    files = log._files
    disk.write(files._name, files._offset, encode_batch(files._header.salt, sequence, payload))
    return disk


def test_a_whole_batch_out_of_sequence_or_with_damaged_records_is_refused():
    with pytest.raises(StorageCorrupt, match="batch 9 stands where 5 belongs"):
        DurableLog(with_batch(encode_record(Closed()), 9), 4096)
    with pytest.raises(StorageCorrupt, match="cut off"):
        DurableLog(with_batch(b"no record", 5), 4096)
    with pytest.raises(StorageCorrupt, match="entries are missing"):
        DurableLog(with_batch(encode_record(Entry(2, 9)), 5), 4096)
    assert DurableLog(with_batch(encode_record(Entry(2, 5)), 5), 4096).last_index == 5


def test_a_torn_batch_may_hold_what_looks_like_another():
    disk, log = begun()
    disk.write(log._files._name, log._files._offset, b"OFB\x01" + bytes(30) + b"OFB\x01" + b"torn")
    assert DurableLog(disk, 4096).torn_bytes == 42


def test_rubbish_behind_the_last_batch_of_an_older_segment_is_refused():
    disk, log = begun(segment_bytes=512)
    for index in range(5, 12):
        write(log, WriteRequest(entries(index, 2, data=b"x" * 50)))
    first = segment_names(disk)[0]
    disk.write(first, len(disk.read(first)) - 4, b"junk")
    with pytest.raises(StorageCorrupt, match="a later segment follows"):
        DurableLog(disk, 512)


def test_a_segment_that_is_too_short_for_its_header_was_only_begun():
    disk, log = begun()
    disk.create("log-0000000000000002.seg", 5)
    assert DurableLog(disk, 4096).last_index == log.last_index


def test_a_snapshot_is_installed_without_a_hard_state_too():
    disk, log = begun()
    write(log, WriteRequest(raft_snapshot=RaftSnapshot(9, 2, MEMBERS)))
    assert DurableLog(disk, 4096).last_index == log.last_index == 9


def test_failed_removals_and_syncs_of_a_real_directory_stop_the_replica(tmp_path):
    disk = OsDisk(tmp_path / "log")
    (tmp_path / "log" / "folder").mkdir()
    with pytest.raises(StorageFailed, match="remove"):
        disk.remove("folder")
    disk.close()
    with pytest.raises(StorageFailed, match="sync"):
        disk.sync_directory()


def test_a_last_segment_that_was_only_begun_is_removed():
    disk, log = begun()
    disk.create("log-0000000000000002.seg", 4096)
    disk.sync_directory()
    assert DurableLog(disk, 4096).last_index == log.last_index
    assert len(segment_names(disk)) == 1


def test_a_damaged_header_of_a_last_segment_with_content_is_refused():
    disk, _ = begun()
    disk.damage(last_segment(disk), 3)
    with pytest.raises(StorageCorrupt, match="header"):
        DurableLog(disk, 4096)


def test_another_format_is_not_touched():
    disk, _ = begun()
    name = last_segment(disk)
    header = bytearray(disk.read(name)[:SEGMENT_HEADER_BYTES])
    header[8] = 9
    header[-4:] = crc32c(bytes(header[:-4])).to_bytes(4, "little")
    disk.write(name, 0, bytes(header))
    before = disk.read(name)
    with pytest.raises(StorageUnknown, match="format 9"):
        DurableLog(disk, 4096)
    assert disk.read(name) == before


def test_snapshots_without_a_log_and_a_log_without_its_snapshot_are_refused():
    disk, log = begun()
    files = {name: disk.read(name) for name in disk.names()}
    only_snapshots = {name: data for name, data in files.items() if name.startswith("snap")}
    with pytest.raises(StorageCorrupt, match="no log"):
        DurableLog(MemoryDisk(only_snapshots), 4096)
    only_log = {name: data for name, data in files.items() if name.startswith("log")}
    with pytest.raises(StorageCorrupt, match="missing"):
        DurableLog(MemoryDisk(only_log), 4096)
    assert log.first_index == 2


def test_a_log_that_lost_what_was_committed_is_refused():
    disk, log = begun()
    log.persist([WriteRequest(hard_state=HardState(2, 3, 9))])
    with pytest.raises(StorageCorrupt, match="were committed"):
        DurableLog(disk, 4096)


def test_a_snapshot_whose_log_was_not_dropped_any_more_is_finished():
    disk, log = begun()
    received = RaftSnapshot(20, 3, MEMBERS)
    log.persist([WriteRequest(hard_state=HardState(3, 1, 2))])
    SnapshotStore(disk).save(received)
    for _ in range(2):
        again = DurableLog(disk, 4096)
        assert (again.first_index, again.last_index) == (21, 20)
        assert again.initial_state()[0] == HardState(3, 1, 20)


def test_damaged_snapshots_are_refused_and_leftovers_removed():
    disk, _ = begun()
    disk.create("snap.tmp", 10)
    name = next(name for name in disk.names() if name.startswith("snap-"))
    files = {n: disk.read(n) for n in disk.names()}
    assert "snap.tmp" not in _opened(files).names()
    size = len(files[name])
    for offset in (3, 8, 11, 20, size - 1):
        damaged = MemoryDisk(files)
        damaged.damage(name, offset)
        with pytest.raises(StorageCorrupt):
            DurableLog(damaged, 4096)
    with pytest.raises(StorageCorrupt):
        DurableLog(MemoryDisk({**files, name: b"short"}), 4096)
    header = files[name][:8] + b"\x09" + files[name][9:32]
    other_version = header + crc32c(header).to_bytes(4, "little") + files[name][36:]
    with pytest.raises(StorageUnknown):
        DurableLog(MemoryDisk({**files, name: other_version}), 4096)


def _opened(files):
    disk = MemoryDisk(files)
    DurableLog(disk, 4096)
    return disk


def test_only_the_newest_snapshots_are_kept():
    disk, log = begun()
    for index in (2, 3, 4):
        write(log, WriteRequest(own_snapshot=RaftSnapshot(index, 1 + (index == 4), MEMBERS)))
    assert SnapshotStore(disk).positions() == [(4, 2), (3, 1)]


def test_memory_takes_requests_in_order_and_without_holes():
    _, log = begun()
    with pytest.raises(InvariantViolation, match="INV-RAFT-12"):
        log.taken(WriteRequest(entries(9, 2)))
    with pytest.raises(InvariantViolation, match="INV-RAFT-14"):
        log.entries(1, 3, MANY)
    log.taken(WriteRequest(entries(1, 1)))
    log.taken(WriteRequest(raft_snapshot=RaftSnapshot(1, 1), compacted=Base(1, 1)))
    assert log.last_index == 4


# The binary form


def test_every_record_survives_its_binary_form():
    records = [
        Entry(3, 7, EntryKind.CONF_CHANGE_V2, b"data"),
        HardState(3, 2, 6),
        Base(5, 2),
        Closed(),
    ]
    payload = b"".join(map(encode_record, records))
    assert list(read_records(payload)) == records
    assert read_batch(b"s" * 16, encode_batch(b"s" * 16, 9, payload), 0) == (9, payload)


def test_any_damaged_byte_of_a_batch_is_seen():
    batch = encode_batch(b"s" * 16, 9, encode_record(Entry(1, 1, data=b"abc")))
    for offset in range(len(batch)):
        damaged = bytearray(batch)
        damaged[offset] ^= 1
        with pytest.raises(DamagedError):
            read_batch(b"s" * 16, bytes(damaged), 0)
    with pytest.raises(DamagedError):
        read_batch(b"t" * 16, batch, 0)
    for length in range(len(batch)):
        with pytest.raises(DamagedError):
            read_batch(b"s" * 16, batch[:length], 0)


def test_random_bytes_and_damaged_records_are_never_accepted():
    chance = random.Random(7)
    record = encode_record(Entry(1, 1, data=b"abc"))
    for _ in range(2000):
        noise = chance.randbytes(chance.randrange(1, 60))
        for read in (lambda n: list(read_records(n)), lambda n: read_batch(b"", n, 0)):
            with pytest.raises(DamagedError):
                read(noise)
        damaged = bytearray(record)
        damaged[chance.randrange(len(record))] ^= 1 << chance.randrange(8)
        with pytest.raises(DamagedError):
            list(read_records(bytes(damaged)))


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (1, b"short"),
        (1, bytes(16) + b"\x09"),
        (2, b""),
        (3, bytes(16) + b"\x07"),
        (4, b"x"),
        (9, b""),
    ],
)
def test_records_of_another_form_are_refused(kind, body):
    rest = len(body).to_bytes(4, "little") + bytes([kind]) + body
    record = crc32c(rest).to_bytes(4, "little") + rest
    with pytest.raises(DamagedError):
        list(read_records(record))


def test_configurations_survive_their_form_and_others_are_refused():
    joint = Configuration(
        JointVoters(frozenset({1}), frozenset({1, 2})), frozenset({3}), frozenset({2}), True
    )
    assert decode_configuration(encode_configuration(joint)) == joint
    for other in (b"", b"[]", b"{}", b'{"incoming": 3}'):
        with pytest.raises(DamagedError):
            decode_configuration(other)
