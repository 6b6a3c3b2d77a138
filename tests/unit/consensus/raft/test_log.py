"""The log: durable part and tail as one, truncation, late reports of the writer, bounds."""

from __future__ import annotations

import pytest

from onceflow_consensus.errors import InvariantViolation
from onceflow_consensus.raft.applying import ApplyCursor
from onceflow_consensus.raft.configuration import configuration_of
from onceflow_consensus.raft.log import RaftLog
from onceflow_consensus.raft.matching import append_from_leader, find_conflict_by_term
from onceflow_consensus.raft.messages import Entry, EntryId, EntryKind, RaftSnapshot
from onceflow_consensus.raft.stable import StableLog
from onceflow_consensus.raft.unstable import UnstableLog
from onceflow_consensus.testing.memory_log import MemoryLog

MEMBERS = configuration_of(frozenset({1, 2, 3}))
MANY = 10**6


def entries(first, *terms, data=b""):
    return tuple(Entry(term, first + i, data=data) for i, term in enumerate(terms))


def log_of(durable=(), tail=(), begin=0):
    stable = MemoryLog(RaftSnapshot(begin, 1 if begin else 0, MEMBERS))
    stable.put(entries(begin + 1, *durable))
    log = RaftLog(stable)
    log.append(entries(begin + 1 + len(durable), *tail))
    return log


def indices(found):
    return [entry.index for entry in found]


def test_the_in_memory_log_offers_what_the_engine_asks_for():
    wanted = {name for name in vars(StableLog) if not name.startswith("_")}
    assert wanted == {
        "first_index",
        "last_index",
        "initial_state",
        "term_at",
        "entries",
        "latest_snapshot",
    }
    assert wanted <= set(dir(MemoryLog()))


def test_terms_are_known_from_the_snapshot_on_and_nowhere_else():
    log = log_of([2, 2], [3], begin=5)
    assert [log.term_at(index) for index in range(4, 10)] == [None, 1, 2, 2, 3, None]
    assert log.last_id == EntryId(3, 8)
    assert (log.first_index, log.last_index) == (6, 8)


def test_slices_cross_from_the_durable_part_into_the_tail():
    log = log_of([1, 1], [1, 1])
    assert indices(log.slice(1, 5, MANY)) == [1, 2, 3, 4]
    assert indices(log.slice(1, 3, MANY)) == [1, 2]
    assert indices(log.slice(3, 5, MANY)) == [3, 4]
    assert log.slice(2, 2, MANY) == ()
    assert log.entries_from(5, MANY) == ()


def test_slices_are_bounded_in_bytes_but_never_empty():
    log = log_of([1, 1], [1, 1])
    size = entries(1, 1)[0].encoded_bytes
    assert indices(log.slice(1, 5, 0)) == [1]
    assert indices(log.slice(1, 5, size)) == [1]
    assert indices(log.slice(1, 5, 2 * size)) == [1, 2]
    assert indices(log.slice(1, 5, 2 * size + 1)) == [1, 2]
    assert indices(log.slice(1, 5, 3 * size)) == [1, 2, 3]
    assert indices(log.slice(3, 5, size)) == [3]


@pytest.mark.parametrize(("low", "high"), [(0, 2), (3, 2), (1, 6)])
def test_only_entries_that_are_there_are_read(low, high):
    log = log_of([1, 1], [1, 1])
    with pytest.raises(InvariantViolation, match="INV-RAFT-14"):
        log.slice(low, high, MANY)
    with pytest.raises(InvariantViolation, match="INV-RAFT-14"):
        log.stable.entries(low, high, MANY)


def test_committed_entries_are_never_replaced():
    log = log_of([1, 1], [1])
    log.commit_to(2)
    with pytest.raises(InvariantViolation, match="INV-RAFT-3"):
        log.append(entries(2, 2))
    with pytest.raises(InvariantViolation, match="INV-RAFT-3"):
        append_from_leader(log, EntryId(1, 1), entries(2, 2), 0)
    assert log.append(()) == 3


def test_the_commit_index_never_goes_back_nor_beyond_the_log():
    log = log_of([1, 1])
    assert log.commit_to(2)
    assert not log.commit_to(1)
    with pytest.raises(InvariantViolation, match="INV-RAFT-2"):
        log.commit_to(3)
    with pytest.raises(InvariantViolation, match="INV-RAFT-2"):
        log.restore(RaftSnapshot(2, 1, MEMBERS))


def test_a_snapshot_under_way_to_the_disk_counts_as_the_log():
    log = log_of([1, 1])
    received = RaftSnapshot(9, 3, MEMBERS)
    log.restore(received)
    assert (log.first_index, log.last_index, log.commit_index) == (10, 9, 9)
    assert [log.term_at(index) for index in (8, 9, 10)] == [None, 3, None]
    assert log.latest_snapshot() == received
    log.unstable.stable_snapshot_to(8)
    assert log.unstable.raft_snapshot is received
    log.append(entries(10, 3))
    assert log.last_index == 10


def test_a_hint_skips_whole_terms_and_stops_where_the_log_is_compacted():
    log = log_of([2, 2, 5], begin=5)
    assert find_conflict_by_term(log, 8, 4) == EntryId(2, 7)
    assert find_conflict_by_term(log, 7, 1) == EntryId(1, 5)
    assert find_conflict_by_term(log, 7, 0) == EntryId(0, 4)
    assert find_conflict_by_term(log_of([2]), 1, 1) == EntryId(0, 0)


def test_a_late_report_of_the_writer_does_not_free_what_replaced_its_entries():
    tail = UnstableLog(5)
    tail.truncate_and_append(entries(5, 1, 1))
    tail.accept_in_progress()
    tail.truncate_and_append(entries(6, 2, 2))
    assert indices(tail.next_entries()) == [6, 7]
    tail.stable_to(EntryId(1, 6))
    assert tail.offset == 5
    tail.stable_to(EntryId(1, 5))
    assert (tail.offset, indices(tail.entries)) == (6, [6, 7])
    for unknown in (EntryId(1, 5), EntryId(2, 9)):
        tail.stable_to(unknown)
    assert tail.offset == 6


def test_truncation_below_the_tail_takes_all_of_it_back():
    tail = UnstableLog(5)
    tail.truncate_and_append(entries(5, 1, 1))
    tail.accept_in_progress()
    tail.truncate_and_append(entries(4, 2))
    assert (tail.offset, tail.in_progress_offset, indices(tail.next_entries())) == (4, 4, [4])


def test_the_log_has_no_holes():
    with pytest.raises(InvariantViolation, match="INV-RAFT-12"):
        UnstableLog(5).truncate_and_append(entries(6, 1))
    with pytest.raises(InvariantViolation, match="INV-RAFT-12"):
        MemoryLog().put(entries(2, 1))


def test_a_log_that_forgot_its_last_term_is_a_violation():
    log = log_of([1])
    log.stable.term_at = lambda index: None
    with pytest.raises(InvariantViolation, match="INV-RAFT-12"):
        _ = log.last_id


def cursor_of(max_bytes=MANY, commit=4):
    log = log_of([1, 1], [1, 1])
    log.commit_to(commit)
    cursor = ApplyCursor(log, max_bytes)
    cursor.applied_index = cursor.applying_index = 0
    return cursor


def test_entries_are_handed_out_once_and_in_order():
    cursor = cursor_of()
    assert indices(cursor.next_entries(allow_unstable=True)) == [1, 2, 3, 4]
    assert indices(cursor.next_entries(allow_unstable=False)) == [1, 2]
    cursor.accept(2, 10, allow_unstable=False)
    assert cursor.next_entries(allow_unstable=False) == ()
    assert indices(cursor.next_entries(allow_unstable=True)) == [3, 4]


def test_a_state_machine_that_falls_behind_is_not_flooded():
    size = entries(1, 1)[0].encoded_bytes
    cursor = cursor_of(max_bytes=2 * size)
    assert indices(cursor.next_entries(allow_unstable=True)) == [1, 2]
    cursor.accept(2, 2 * size, allow_unstable=True)
    assert not cursor.has_next(allow_unstable=True)
    cursor.applied_to(1, size)
    assert indices(cursor.next_entries(allow_unstable=True)) == [3]


def test_nothing_is_applied_below_a_snapshot_that_is_not_durable():
    cursor = cursor_of()
    cursor._log.restore(RaftSnapshot(9, 3, MEMBERS))
    assert not cursor.has_next(allow_unstable=True)


def test_what_is_applied_is_committed_and_never_taken_back():
    cursor = cursor_of(commit=2)
    with pytest.raises(InvariantViolation, match="INV-RAFT-4"):
        cursor.accept(3, 1, allow_unstable=True)
    with pytest.raises(InvariantViolation, match="INV-RAFT-4"):
        cursor.applied_to(3, 1)
    cursor.applied_to(2, 100)
    with pytest.raises(InvariantViolation, match="INV-RAFT-4"):
        cursor.applied_to(1, 1)


def test_the_in_memory_log_compacts_and_begins_anew():
    stable = MemoryLog()
    stable.put(entries(1, 1, 1, 2))
    stable.compact(2)
    assert (stable.first_index, stable.last_index, stable.term_at(2)) == (3, 3, 1)
    with pytest.raises(InvariantViolation, match="INV-RAFT-14"):
        stable.compact(2)
    stable.put(entries(1, 1, 1))  # overtaken by the compaction
    assert stable.last_index == 3
    stable.put(())
    stable.install(RaftSnapshot(7, 2, MEMBERS))
    stable.install(RaftSnapshot(6, 2, MEMBERS))
    assert (stable.first_index, stable.last_index, stable.term_at(7)) == (8, 7, 2)


def test_sizes_are_those_of_the_wire_form_that_limits_are_known_for():
    assert Entry(1, 1).encoded_bytes == 4
    assert Entry(1, 200, data=b"abc").encoded_bytes == 10
    assert Entry(1, 1, EntryKind.CONF_CHANGE).encoded_bytes == 6
