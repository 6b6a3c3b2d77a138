"""Replicas of the record under random commands: equal, restored whole, and true to INV-META-1.

Few ended transactions are kept, so that dropping them is a part of most examples.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow.coordinator import app_record
from onceflow.coordinator.machine import CoordinatorMachine
from onceflow.coordinator.vocabulary import (
    Aborted,
    Begun,
    Committed,
    Decision,
    Ended,
    Finding,
    Heuristic,
    Leased,
    Left,
    ListTransactions,
    Observed,
    OffsetsMoved,
    Outcome,
    Prepared,
    Standing,
    Told,
    decode_answer,
    decode_response,
    encode_command,
    encode_query,
)

INCARNATIONS = st.sampled_from(["u", "v", "w"])
EPOCHS = st.integers(0, 6)
TEXTS = st.sampled_from(["", "m1", "m2"])
PARTITIONS = st.just([("t", [0, 1])])
CHANGES = st.one_of(
    st.builds(Begun, INCARNATIONS, EPOCHS, PARTITIONS, st.just(["pg"])),
    st.builds(Prepared, INCARNATIONS, EPOCHS, PARTITIONS, st.just([("pg", "gid")]), TEXTS),
    st.builds(Committed, INCARNATIONS, EPOCHS, TEXTS, INCARNATIONS),
    st.builds(Aborted, INCARNATIONS, EPOCHS, INCARNATIONS),
    st.builds(Ended, INCARNATIONS, EPOCHS),
    st.builds(
        Heuristic, INCARNATIONS, EPOCHS, st.just("pg"), st.sampled_from(Finding), TEXTS, TEXTS
    ),
    st.builds(
        OffsetsMoved,
        INCARNATIONS,
        EPOCHS,
        TEXTS,
        st.lists(st.tuples(st.sampled_from("tu"), st.integers(0, 2), EPOCHS), max_size=3),
    ),
    st.builds(Leased, INCARNATIONS, TEXTS, TEXTS, EPOCHS, st.integers(1_000, 3_000)),
    st.builds(Left, INCARNATIONS),
    st.builds(Observed),
)
COMMANDS = st.builds(
    lambda scope, unix_ms, changes: encode_command(Told(scope, "app-" + scope, unix_ms, changes)),
    st.sampled_from("ab"),
    st.integers(0, 9),
    st.lists(CHANGES, max_size=4),
)
ENTRIES = st.lists(
    st.tuples(st.integers(0, 1_500), st.lists(COMMANDS | st.binary(max_size=4), max_size=4)),
    max_size=25,
)


@pytest.fixture(scope="module", autouse=True)
def few_are_kept():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(app_record._CAPACITY, Standing.ENDED, 3)
        patch.setattr(app_record, "COORDINATOR_FORGOTTEN_KEPT", 2)
        yield


class Replica:
    def __init__(self):
        self.machine = CoordinatorMachine()
        self.index = 0
        self.now_ms = 0

    def apply(self, entry):
        passed_ms, commands = entry
        self.index += 1
        self.now_ms += passed_ms
        return self.machine.apply_batch(self.index, self.now_ms, commands)

    @property
    def state(self):
        return list(self.machine.take_snapshot())


def rows_of(machine):
    for standing in Standing:
        question = encode_query(ListTransactions("", standing))
        yield from decode_answer(machine.query(question)).rows


@given(ENTRIES)
def test_two_replicas_answer_and_end_alike(entries):
    one, two = Replica(), Replica()
    assert [one.apply(entry) for entry in entries] == [two.apply(entry) for entry in entries]
    assert one.state == two.state


@given(ENTRIES, st.integers(0, 25), st.booleans())
def test_a_replica_that_was_restored_goes_on_like_one_that_was_not(entries, at, is_read_late):
    whole, cut = Replica(), Replica()
    for entry in entries[:at]:
        whole.apply(entry)
    chunks = whole.machine.take_snapshot()
    taken = None if is_read_late else list(chunks)
    answers = [whole.apply(entry) for entry in entries[at:]]
    cut.machine.restore(chunks if taken is None else taken)
    cut.index, cut.now_ms = min(at, len(entries)), sum(each[0] for each in entries[:at])
    assert [cut.apply(entry) for entry in entries[at:]] == answers
    assert cut.state == whole.state


@settings(max_examples=200)
@given(ENTRIES)
def test_a_decision_that_was_recorded_stands_and_nothing_in_doubt_is_dropped(entries):
    """INV-META-1 and INV-META-2, seen from outside."""
    replica = Replica()
    decided: dict[tuple, Decision] = {}
    kept: set[tuple] = set()
    for entry in entries:
        for response in replica.apply(entry):
            decode_response(response)
        found = {}
        for row in rows_of(replica.machine):
            key = (row.scope, row.transaction.incarnation, row.transaction.commit_epoch)
            assert key not in found, "a transaction stands in one place"
            found[key] = row
        for key, decision in decided.items():
            if key in found:
                assert found[key].transaction.decision is decision
        assert kept <= set(found)
        decided |= {
            key: row.transaction.decision
            for key, row in found.items()
            if row.transaction.decision is not Decision.NONE
        }
        # What was open may end and be dropped within one command; what is heuristic stays.
        kept = {key for key, row in found.items() if row.standing is Standing.HEURISTIC}


@given(ENTRIES, INCARNATIONS, EPOCHS)
def test_of_two_contradicting_decisions_exactly_the_first_is_taken(entries, incarnation, epoch):
    replica = Replica()
    for entry in entries:
        replica.apply(entry)
    told = Told(
        "a", "app-a", 0, [Committed(incarnation, epoch, "", "x"), Aborted(incarnation, epoch, "x")]
    )
    (response,) = replica.apply((0, [encode_command(told)]))
    assert decode_response(response).outcomes in (
        [Outcome.APPLIED, Outcome.CONTRADICTS],
        [Outcome.ALREADY, Outcome.CONTRADICTS],
        [Outcome.CONTRADICTS, Outcome.ALREADY],
        [Outcome.FORGOTTEN, Outcome.FORGOTTEN],
    )
