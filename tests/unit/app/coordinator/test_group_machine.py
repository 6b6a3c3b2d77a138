"""The key-value space and the record beside each other in one group."""

from __future__ import annotations

import msgspec
import pytest

from onceflow.coordinator.group_machine import GroupMachine
from onceflow.coordinator.vocabulary import (
    Aborted,
    ListTransactions,
    Outcome,
    Outcomes,
    Standing,
    Told,
    decode_answer,
    decode_response,
)
from onceflow.coordinator.vocabulary import encode_command as encode_told
from onceflow.coordinator.vocabulary import encode_query as encode_question
from onceflow_consensus import kv
from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.kv import Found, Get, KeyValueMachine, Put, Written

ABORT = encode_told(Told("s", "app", 1, [Aborted("w", 1, "w")]))


def filled():
    machine = GroupMachine()
    machine.apply_batch(1, 1, [kv.encode_command(Put(b"a", b"1")), ABORT])
    return machine


def holds_both(machine):
    found = kv.decode_response(machine.query(kv.encode_query(Get(b"a"))))
    listed = decode_answer(machine.query(encode_question(ListTransactions("", Standing.OPEN))))
    return found == Found(b"1", 1) and len(listed.rows) == 1


def test_each_command_goes_to_whom_it_belongs_and_answers_stay_in_order():
    machine = GroupMachine()
    put = kv.encode_command(Put(b"a", b"1"))
    one, two, three, four = machine.apply_batch(1, 1, [put, ABORT, ABORT, put])
    assert [kv.decode_response(each) for each in (one, four)] == [Written(1), Written(2)]
    assert [decode_response(each) for each in (two, three)] == [
        Outcomes([Outcome.APPLIED]),
        Outcomes([Outcome.ALREADY]),
    ]
    assert isinstance(kv.decode_response(machine.apply_batch(2, 1, [b""])[0]), kv.Refused)


def test_a_snapshot_holds_both():
    machine = GroupMachine()
    machine.restore(filled().take_snapshot())
    assert holds_both(machine)
    assert list(machine.take_snapshot()) == list(filled().take_snapshot())


def test_a_snapshot_of_keys_alone_is_read_and_begins_an_empty_record():
    keys = KeyValueMachine()
    keys.apply_batch(1, 1, [kv.encode_command(Put(b"a", b"9"))])
    machine = filled()
    machine.restore(keys.take_snapshot())
    assert kv.decode_response(machine.query(kv.encode_query(Get(b"a")))) == Found(b"9", 1)
    listed = decode_answer(machine.query(encode_question(ListTransactions("", Standing.OPEN))))
    assert listed.rows == []


def test_a_program_that_knows_keys_alone_refuses_ours_and_says_whose_it_is():
    with pytest.raises(SnapshotUnreadable, match="onceflow group"):
        KeyValueMachine().restore(filled().take_snapshot())


def test_a_snapshot_that_is_damaged_or_later_is_refused_unchanged():
    chunks = list(filled().take_snapshot())
    keys = [chunk for chunk in chunks if chunk[:1] == b"k"]
    later = msgspec.msgpack.encode(["onceflow group", 2, 0, 0])
    machine = filled()
    for bad in (
        [],
        chunks[:1],
        [chunks[0], *keys],
        [later, *chunks[1:]],
        [*chunks, b"x"],
        [chunks[0], *chunks[2:]],
    ):
        with pytest.raises(SnapshotUnreadable):
            machine.restore(bad)
        assert holds_both(machine)
