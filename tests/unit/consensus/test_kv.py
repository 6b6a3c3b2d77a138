"""The key-value space: commands, queries, pages, bounds and snapshots."""

from __future__ import annotations

import pytest

from onceflow_consensus import kv
from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.kv import (
    CompareValue,
    CompareVersion,
    Delete,
    Deleted,
    Found,
    Get,
    KeyValueMachine,
    Mismatch,
    Page,
    Put,
    Refused,
    Scan,
    Written,
    decode_response,
    encode_command,
    encode_query,
)
from onceflow_consensus.limits import MAX_KEY_BYTES, MAX_SCAN_PAGE_ENTRIES, MAX_VALUE_BYTES


@pytest.fixture
def machine():
    return KeyValueMachine()


def do(machine, *commands):
    payloads = [encode_command(command) for command in commands]
    return [decode_response(response) for response in machine.apply_batch(1, 0, payloads)]


def ask(machine, query):
    return decode_response(machine.query(encode_query(query)))


def stream(machine):
    return b"".join(machine.take_snapshot())


def test_what_was_put_is_found_with_its_version(machine):
    assert do(machine, Put(b"a", b"1"), Put(b"b", b"2"), Put(b"a", b"3")) == [
        Written(1),
        Written(2),
        Written(3),
    ]
    assert ask(machine, Get(b"a")) == Found(b"3", 3)
    assert ask(machine, Get(b"c")) == Found(b"", 0)
    assert machine.key_count == 2


def test_versions_are_not_used_twice_by_a_key_that_was_deleted(machine):
    do(machine, Put(b"a", b"1"), Delete(b"a"), Put(b"a", b"1"))
    assert ask(machine, Get(b"a")) == Found(b"1", 3)
    assert do(machine, CompareVersion(b"a", 1, b"2")) == [Mismatch(3)]


def test_a_compared_version_decides_the_write(machine):
    assert do(
        machine,
        CompareVersion(b"a", 1, b"x"),
        CompareVersion(b"a", 0, b"x"),
        CompareVersion(b"a", 0, b"y"),
        CompareVersion(b"a", 1, b"z"),
    ) == [Mismatch(0), Written(1), Mismatch(1), Written(2)]
    assert ask(machine, Get(b"a")) == Found(b"z", 2)


def test_a_compared_value_decides_the_write(machine):
    assert do(
        machine,
        CompareValue(b"a", b"", b"x"),
        CompareValue(b"a", None, b"x"),
        CompareValue(b"a", None, b"y"),
        CompareValue(b"a", b"x", b"z"),
    ) == [Mismatch(0), Written(1), Mismatch(1), Written(2)]


def test_deleting_what_is_not_there_changes_nothing(machine):
    do(machine, Put(b"a", b"1"))
    assert do(machine, Delete(b"b"), Delete(b"a"), Delete(b"a")) == [
        Deleted(0),
        Deleted(1),
        Deleted(0),
    ]
    assert machine.key_count == 0


@pytest.mark.parametrize(
    "command",
    [
        Put(b"", b"v"),
        Put(bytes(MAX_KEY_BYTES + 1), b"v"),
        Put(b"k", bytes(MAX_VALUE_BYTES + 1)),
        CompareVersion(b"k", 0, bytes(MAX_VALUE_BYTES + 1)),
        Delete(bytes(MAX_KEY_BYTES + 1)),
    ],
)
def test_what_exceeds_a_bound_is_refused(machine, command):
    (response,) = do(machine, command)
    assert isinstance(response, Refused)
    assert machine.key_count == 0


@pytest.mark.parametrize("payload", [b"", b"\xc1", encode_query(Scan(b"")), b"\x92\x09\xc4\x01a"])
def test_what_is_no_command_is_refused_and_the_batch_goes_on(machine, payload):
    good = encode_command(Put(b"a", b"1"))
    responses = machine.apply_batch(1, 0, [payload, good])
    first, second = map(decode_response, responses)
    assert isinstance(first, Refused)
    assert second == Written(1)


def test_what_is_no_query_is_refused(machine):
    assert isinstance(decode_response(machine.query(b"\xc1")), Refused)


def test_a_scan_gives_the_keys_of_a_prefix_in_order(machine):
    do(machine, *(Put(key, key) for key in (b"b2", b"a", b"b", b"b1", b"c")))
    page = ask(machine, Scan(b"b"))
    assert [key for key, _, _ in page.rows] == [b"b", b"b1", b"b2"]
    assert not page.more
    assert ask(machine, Scan(b"d")) == Page([], more=False)


def test_pages_together_are_the_whole(machine):
    keys = sorted(b"k%d" % number for number in range(MAX_SCAN_PAGE_ENTRIES + 5))
    do(machine, *(Put(key, b"") for key in keys), Put(b"j", b""), Put(b"l", b""))
    for max_entries in (7, 1_000_000):
        seen, after, more = [], b"", True
        while more:
            page = ask(machine, Scan(b"k", after, max_entries))
            assert len(page.rows) <= min(max_entries, MAX_SCAN_PAGE_ENTRIES)
            seen += [key for key, _, _ in page.rows]
            after, more = seen[-1], page.more
        assert seen == keys


def test_a_page_is_bounded_in_bytes(machine):
    do(machine, *(Put(b"%d" % number, bytes(MAX_VALUE_BYTES)) for number in range(3)))
    page = ask(machine, Scan(b""))
    assert (len(page.rows), page.more) == (1, True)


def test_a_page_can_begin_after_a_key_that_is_gone(machine):
    do(machine, Put(b"a", b""), Put(b"b", b""), Put(b"c", b""), Delete(b"b"))
    assert [row[0] for row in ask(machine, Scan(b"", b"b")).rows] == [b"c"]
    assert ask(machine, Scan(b"", b"zz")).rows == []


def test_many_keys_that_come_and_go_stay_in_order(machine):
    keys = [b"%05d" % (number * 7919 % 5000) for number in range(5000)]
    do(machine, *(Put(key, b"") for key in keys))
    do(machine, *(Delete(key) for key in keys[::2]), *(Delete(key) for key in keys[1::4]))
    kept = sorted(keys[3::4])
    seen: list[bytes] = []
    while True:
        page = ask(machine, Scan(b"", seen[-1] if seen else b""))
        seen += [row[0] for row in page.rows]
        if not page.more:
            break
    assert seen == kept
    do(machine, *(Delete(key) for key in kept))
    assert ask(machine, Scan(b"")) == Page([], more=False)
    assert do(machine, Put(b"z", b""))
    assert ask(machine, Scan(b"")).rows


def test_a_restored_machine_equals_the_one_that_was_taken(machine, monkeypatch):
    monkeypatch.setattr(kv, "SNAPSHOT_CHUNK_BYTES", 100)
    do(machine, *(Put(b"%d" % (number % 300), bytes(number % 7)) for number in range(1000)))
    do(machine, Delete(b"5"))
    chunks = list(machine.take_snapshot())
    assert len(chunks) > 5
    copy = KeyValueMachine()
    do(copy, Put(b"left over", b"x"))
    copy.restore(chunks)
    assert stream(copy) == stream(machine)
    assert do(copy, Put(b"new", b"")) == do(machine, Put(b"new", b""))
    assert ask(copy, Scan(b"")) == ask(machine, Scan(b""))


def test_a_snapshot_is_that_of_its_call_whatever_is_written_meanwhile(machine):
    do(machine, Put(b"a", b"1"), Put(b"b", b"2"))
    before = stream(machine)
    first, second = machine.take_snapshot(), machine.take_snapshot()
    do(machine, Put(b"a", b"9"), Delete(b"b"), Put(b"c", b"3"), Put(b"a", b"10"))
    assert b"".join(first) == b"".join(second) == before
    assert stream(machine) != before
    assert ask(machine, Get(b"a")) == Found(b"10", 6)


def test_a_damaged_snapshot_is_refused_and_changes_nothing(machine):
    other = KeyValueMachine()
    do(other, Put(b"k", b"v"))
    chunks = list(other.take_snapshot())
    do(machine, Put(b"a", b"1"))
    before = stream(machine)
    foreign = [b"\x94\xa5other\x01\x00\x00", *chunks[1:]]
    for damaged in ([], chunks[:1], [*chunks, b"\xc1"], [b"\xc1"], foreign):
        with pytest.raises(SnapshotUnreadable):
            machine.restore(damaged)
    assert stream(machine) == before
