"""The coordinator's record: decisions that stand, what is kept, leases, bounds, snapshots."""

from __future__ import annotations

import msgspec
import pytest

from onceflow.coordinator import app_record, vocabulary
from onceflow.coordinator.machine import CoordinatorMachine
from onceflow.coordinator.transactions import DECISIONS, STEPS, moved
from onceflow.coordinator.vocabulary import (
    Aborted,
    Begun,
    Committed,
    Decision,
    Declined,
    Ended,
    Finding,
    Heuristic,
    Leased,
    Left,
    ListAlarms,
    ListApps,
    ListOffsets,
    ListTransactions,
    ListWorkers,
    Observed,
    OffsetsMoved,
    Outcome,
    Outcomes,
    Prepared,
    ShowTransaction,
    Standing,
    Told,
    Transaction,
    TxnState,
    decode_answer,
    decode_response,
    encode_command,
    encode_query,
)
from onceflow.errors import InvariantViolation
from onceflow.limits import (
    COORDINATOR_CHANGES_MAX,
    COORDINATOR_ENDED_KEPT,
    COORDINATOR_TEXT_BYTES_MAX,
)
from onceflow_consensus.errors import SnapshotUnreadable
from onceflow_consensus.limits import MAX_RESPONSE_BYTES

SCOPE, APP = "5c09e0000000cafe", "orders"
PARTITIONS = [("payments", [0, 3])]
BRANCHES = [("pg_totals", "of1.x.w.7.pg_totals")]


class Replica:
    """A machine whose log time and index go on with each command."""

    def __init__(self):
        self.machine = CoordinatorMachine()
        self.index = 0
        self.now_ms = 1_000

    def tell(self, *changes, scope=SCOPE, app=APP):
        response = self.send(encode_command(Told(scope, app, 77, list(changes))))
        return response.outcomes if isinstance(response, Outcomes) else response

    def send(self, payload):
        self.index += 1
        (response,) = self.machine.apply_batch(self.index, self.now_ms, [payload])
        return decode_response(response)

    def ask(self, query):
        return decode_answer(self.machine.query(encode_query(query)))

    def show(self, incarnation, commit_epoch):
        rows = self.ask(ShowTransaction(SCOPE, incarnation, commit_epoch)).rows
        return rows[0].transaction if rows else None

    def listed(self, standing, of=""):
        rows = self.ask(ListTransactions(of, standing)).rows
        return [(row.transaction.incarnation, row.transaction.commit_epoch) for row in rows]


@pytest.fixture
def replica():
    return Replica()


def prepared(commit_epoch=7, incarnation="w"):
    return Prepared(incarnation, commit_epoch, PARTITIONS, BRANCHES, "of1:w:7:7:h:0")


def test_an_epoch_goes_its_way_and_its_evidence_is_kept(replica):
    assert replica.tell(Begun("w", 7, PARTITIONS, ["pg_totals"])) == [Outcome.APPLIED]
    assert replica.show("w", 7).state is TxnState.BEGUN
    assert (
        replica.tell(prepared(), Committed("w", 7, "of1:w:7:7:h:0", "w")) == [Outcome.APPLIED] * 2
    )
    found = replica.show("w", 7)
    assert (found.state, found.decision, found.branches) == (
        TxnState.COMMITTED,
        Decision.COMMIT,
        BRANCHES,
    )
    assert (found.partitions, found.marker, found.decided_by) == (
        PARTITIONS,
        "of1:w:7:7:h:0",
        "w",
    )
    assert replica.listed(Standing.OPEN) == [("w", 7)]
    assert replica.tell(Ended("w", 7)) == [Outcome.APPLIED]
    assert (replica.listed(Standing.OPEN), replica.listed(Standing.ENDED)) == ([], [("w", 7)])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Committed("w", 7, "", "w"), Aborted("w", 7, "v")),
        (Aborted("w", 7, "w"), Committed("w", 7, "", "v")),
    ],
)
@pytest.mark.parametrize("is_ended", [True, False])
def test_a_decision_never_changes_and_who_contradicts_is_refused(replica, first, second, is_ended):
    """INV-META-1."""
    replica.tell(prepared(), first, *([Ended("w", 7)] if is_ended else []))
    before = replica.show("w", 7)
    assert replica.tell(second) == [Outcome.CONTRADICTS]
    assert replica.show("w", 7) == before
    alarms = replica.ask(ListAlarms())
    (alarm,) = alarms.rows
    assert (alarm.recorded, alarm.refused, alarm.by, alarms.total) == (
        DECISIONS[type(first)],
        DECISIONS[type(second)],
        "v",
        1,
    )
    assert replica.tell(first) == [Outcome.ALREADY]


def test_a_change_of_a_decision_would_stop_the_replica():
    """INV-META-1 is checked where a transaction changes, whoever asks for it."""
    known = Transaction(1, "w", 7, TxnState.COMMITTED, Decision.COMMIT)
    with pytest.raises(InvariantViolation, match="INV-META-1"):
        moved(known, Aborted("w", 7, "v"), TxnState.ABORTED, 0, 1)


def test_every_step_says_for_every_state_where_it_leads(replica):
    states = {None, *TxnState}
    for step, table in STEPS.items():
        assert set(table) <= states, step
    # Nothing leads back: a later state is never followed by an earlier one.
    assert all(to >= (state or 0) for table in STEPS.values() for state, to in table.items())


def test_late_news_of_a_decided_epoch_changes_nothing(replica):
    replica.tell(Aborted("w", 7, "v"))
    assert replica.tell(prepared(), Begun("w", 7, [], [])) == [Outcome.ALREADY] * 2
    assert replica.show("w", 7).state is TxnState.ABORTED


def test_the_end_of_an_epoch_ends_earlier_ones_of_its_incarnation(replica):
    replica.tell(prepared(5), prepared(6), Committed("w", 6, "", "w"), prepared(5, "other"))
    replica.tell(prepared(7), Ended("w", 7))
    assert replica.listed(Standing.OPEN) == [("other", 5)]
    assert [replica.show("w", each).decision for each in (5, 6)] == [
        Decision.NONE,
        Decision.COMMIT,
    ]
    # What was decided is learned later, and then it stands.
    assert replica.tell(Committed("w", 5, "", "v"), Aborted("w", 5, "v")) == [
        Outcome.APPLIED,
        Outcome.CONTRADICTS,
    ]
    assert replica.listed(Standing.OPEN) == [("other", 5)]


def test_ended_ones_are_dropped_in_doubt_and_heuristic_ones_never(replica):
    """INV-META-2."""
    replica.tell(prepared(1, "doubtful"), Heuristic("h", 1, "pg", Finding.OTHER, "gone", "h"))
    for commit_epoch in range(1, COORDINATOR_ENDED_KEPT + 11):
        replica.tell(Committed("w", commit_epoch, "", "w"), Ended("w", commit_epoch))
    assert replica.listed(Standing.OPEN) == [("doubtful", 1)]
    assert replica.listed(Standing.HEURISTIC) == [("h", 1)]
    summary = replica.ask(ListApps()).rows[0]
    assert summary.ended_transactions == COORDINATOR_ENDED_KEPT
    assert replica.show("w", 10) is None
    assert replica.ask(ShowTransaction(SCOPE, "w", 10)).is_forgotten
    assert not replica.ask(ShowTransaction(SCOPE, "w", 99_999)).is_forgotten
    # Late news does not open it again, and nobody is told that it was recorded.
    assert replica.tell(prepared(10), Aborted("w", 10, "v"), Ended("w", 10)) == [
        Outcome.FORGOTTEN,
        Outcome.FORGOTTEN,
        Outcome.ALREADY,
    ]


def test_a_heuristic_outcome_stays_with_its_transaction_for_ever(replica):
    found = Heuristic("w", 7, "pg_totals", Finding.BRANCH_MISSING, "not listed", "v")
    assert replica.tell(prepared(), Committed("w", 7, "", "w"), found) == [Outcome.APPLIED] * 3
    assert replica.tell(found) == [Outcome.ALREADY]
    replica.tell(Ended("w", 7))
    assert replica.listed(Standing.HEURISTIC) == [("w", 7)]
    (note,) = replica.show("w", 7).heuristics
    assert (note.finding, note.detail, note.by) == (Finding.BRANCH_MISSING, "not listed", "v")
    for number in range(100):
        last = replica.tell(Heuristic("w", 7, "pg", Finding.OTHER, str(number), "v"))
    assert last == [Outcome.FULL]


def test_offsets_are_listed_by_partition_and_late_news_loses(replica):
    replica.tell(Leased("v", "w-1", "host", 4, 60_000))
    replica.tell(OffsetsMoved("w", 3, "m3", [("b", 0, 10), ("a", 1, 5)]))
    replica.tell(OffsetsMoved("w", 2, "m2", [("b", 0, 8)]))
    replica.tell(OffsetsMoved("v", 1, "v1", [("b", 0, 20)]))
    replica.tell(OffsetsMoved("w", 4, "m4", [("b", 0, 11)]))
    page = replica.ask(ListOffsets(SCOPE, limit=1))
    assert ([(row.topic, row.number, row.offset) for row in page.rows], page.more) == (
        [("a", 1, 5)],
        True,
    )
    (row,) = replica.ask(ListOffsets(SCOPE, after=("a", 1))).rows
    assert (row.offset, row.marker, row.incarnation) == (20, "v1", "v")
    # Set back while nobody works: its owner has no lease any more.
    replica.tell(Left("v"), OffsetsMoved("u", 1, "u1", [("b", 0, 0)]))
    (row,) = replica.ask(ListOffsets(SCOPE, after=("a", 1))).rows
    assert (row.offset, row.incarnation) == (0, "u")


def test_a_worker_is_listed_until_its_lease_runs_out_by_the_time_of_the_log(replica):
    replica.tell(Leased("w", "w-0", "host", 4, 5_000), Leased("v", "w-1", "host", 5, 60_000))
    replica.now_ms += 4_999
    replica.tell(Observed())
    assert len(replica.ask(ListWorkers("")).rows) == 2
    replica.now_ms += 1
    replica.tell(Observed())
    workers = replica.ask(ListWorkers(APP))
    assert [row.lease.incarnation for row in workers.rows] == ["v"]
    assert workers.log_time_ms == replica.now_ms
    assert replica.tell(Left("v"), Left("v")) == [Outcome.APPLIED, Outcome.ALREADY]
    assert replica.ask(ListWorkers("")).rows == []


@pytest.mark.parametrize(
    "change",
    [
        Committed("", 7, "", "w"),
        Committed("w", -1, "", "w"),
        Committed("w", 1 << 63, "", "w"),
        Committed("w", 7, "", "x" * (COORDINATOR_TEXT_BYTES_MAX + 1)),
        Aborted("w" * 250, 7, "w"),
        Prepared("w", 7, [("t", list(range(20_001)))], [], ""),
        Begun("w", 7, [], [f"p{number}" for number in range(65)]),
        Heuristic("w", 7, "", Finding.OTHER, "", "w"),
        OffsetsMoved("w", 7, "", [("", 0, 0)]),
        Leased("w", "w-0", "host", 4, 10),
    ],
)
def test_what_is_out_of_bounds_is_declined_whole(replica, change):
    assert isinstance(replica.tell(prepared(), change), Declined)
    assert replica.ask(ListApps()).rows == []


def test_a_command_and_its_response_are_bounded(replica):
    many = [prepared(number) for number in range(COORDINATOR_CHANGES_MAX)]
    payload = encode_command(Told(SCOPE, APP, 0, many))
    (response,) = replica.machine.apply_batch(1, 1, [payload])
    assert len(response) <= MAX_RESPONSE_BYTES
    assert isinstance(replica.tell(*many, Observed()), Declined)


def test_full_bounds_refuse_what_can_be_told_again(replica, monkeypatch):
    monkeypatch.setitem(app_record._CAPACITY, Standing.OPEN, 1)
    monkeypatch.setattr(app_record, "COORDINATOR_WORKERS_MAX", 1)
    monkeypatch.setattr(app_record, "COORDINATOR_PARTITIONS_MAX", 1)
    assert replica.tell(
        prepared(1),
        prepared(2),
        Leased("w", "", "", 1, 5_000),
        Leased("v", "", "", 1, 5_000),
        Leased("w", "", "", 1, 5_000),
        OffsetsMoved("w", 1, "", [("a", 0, 1), ("b", 0, 1)]),
    ) == [
        Outcome.APPLIED,
        Outcome.FULL,
        Outcome.APPLIED,
        Outcome.FULL,
        Outcome.APPLIED,
        Outcome.FULL,
    ]


def test_transactions_are_listed_in_pages_across_applications(replica):
    for scope in ("b", "a"):
        replica.tell(*[prepared(number) for number in range(3)], scope=scope, app=f"app-{scope}")
    seen, after = [], ("", 0)
    while True:
        page = replica.ask(ListTransactions("", Standing.OPEN, after, limit=2))
        seen += [(row.scope, row.transaction.commit_epoch) for row in page.rows]
        after = (page.rows[-1].scope, page.rows[-1].transaction.sequence)
        if not page.more:
            break
    assert seen == [(scope, number) for scope in "ab" for number in range(3)]
    assert replica.listed(Standing.OPEN, of="app-b") == [("w", number) for number in range(3)]


def test_bytes_that_are_not_ours_or_of_a_later_version_are_declined(replica):
    later = bytearray(encode_command(Told(SCOPE, APP, 0, [])))
    later[1] += 1
    for payload in (b"", b"\xc1", b"\xc1\x01", b"\xc1\x01\x90", b"x", bytes(later)):
        assert isinstance(replica.send(payload), Declined)
        assert isinstance(decode_answer(replica.machine.query(payload)), Declined)
    assert "upgrade all members" in replica.send(bytes(later)).reason


def test_numbers_tell_what_is_worth_an_alarm(replica):
    assert replica.machine.numbers() == {
        "open_transactions": 0,
        "oldest_open_begun_timestamp_seconds": 0,
        "heuristic_transactions": 0,
        "contradicted_decisions_total": 0,
        "recorded_workers": 0,
    }
    replica.tell(prepared(1), prepared(2), Leased("w", "", "", 1, 5_000))
    replica.tell(prepared(3), Committed("w", 2, "", "w"), scope="other")
    replica.tell(Heuristic("h", 1, "pg", Finding.OTHER, "", "h"), Aborted("w", 2, "v"))
    replica.tell(Committed("w", 2, "", "v"))
    assert replica.machine.numbers() == {
        "open_transactions": 4,
        "oldest_open_begun_timestamp_seconds": 0.077,
        "heuristic_transactions": 1,
        "contradicted_decisions_total": 1,
        "recorded_workers": 1,
    }


def filled():
    replica = Replica()
    replica.tell(prepared(1), Committed("w", 2, "", "w"), Aborted("w", 2, "v"), Ended("w", 2))
    replica.tell(Heuristic("w", 3, "pg", Finding.ROW_BEHIND, "set back", "w"), scope="b", app="b")
    replica.tell(OffsetsMoved("w", 2, "m", [("t", 0, 4)]), Leased("w", "w-0", "h", 1, 9_000))
    for commit_epoch in range(10, COORDINATOR_ENDED_KEPT + 20):
        replica.tell(Committed("w", commit_epoch, "", "w"), Ended("w", commit_epoch))
    return replica


def test_a_snapshot_is_restored_to_the_same_state_which_goes_on_alike():
    replica = filled()
    other = Replica()
    other.machine.restore(replica.machine.take_snapshot())
    other.index, other.now_ms = replica.index, replica.now_ms
    assert list(other.machine.take_snapshot()) == list(replica.machine.take_snapshot())
    for each in (replica, other):
        each.now_ms += 20_000
        each.tell(prepared(4_000), Observed())
    assert list(other.machine.take_snapshot()) == list(replica.machine.take_snapshot())


def test_a_snapshot_is_that_of_its_moment():
    replica = filled()
    whole = list(replica.machine.take_snapshot())
    slow = replica.machine.take_snapshot()
    first = next(slow)
    replica.tell(prepared(5_000), Aborted("w", 1, "w"), Left("w"), scope=SCOPE)
    replica.tell(Aborted("x", 1, "w"), Committed("x", 1, "", "w"), scope="new", app="new")
    assert [first, *slow] == whole


def test_a_snapshot_that_is_damaged_or_cut_off_or_of_others_is_refused_unchanged():
    chunks = list(filled().machine.take_snapshot())
    header = msgspec.msgpack.decode(chunks[0])
    later = msgspec.msgpack.encode([header[0], header[1] + 1, *header[2:]])
    foreign = msgspec.msgpack.encode(["onceflow kv", *header[1:]])
    replica = Replica()
    replica.tell(prepared())
    before = list(replica.machine.take_snapshot())
    for bad in (
        [],
        chunks[:-1],
        [later, *chunks[1:]],
        [foreign, *chunks[1:]],
        [chunks[0], b"\xc1", *chunks[1:]],
        [*chunks, msgspec.msgpack.encode([2, "nobody", [[1, "w", 1, 1]]])],
    ):
        with pytest.raises(SnapshotUnreadable):
            replica.machine.restore(bad)
    assert list(replica.machine.take_snapshot()) == before


def test_a_snapshot_of_an_earlier_minor_form_is_read():
    """A field that a later program appends is missing in what an earlier one wrote."""
    replica = filled()
    chunks = [msgspec.msgpack.decode(chunk) for chunk in replica.machine.take_snapshot()]
    for chunk in chunks[1:]:
        if chunk[0] == 2:
            chunk[2] = [row[:-1] for row in chunk[2]]
    other = Replica()
    other.machine.restore(map(msgspec.msgpack.encode, chunks))
    assert other.listed(Standing.OPEN) == replica.listed(Standing.OPEN)


def test_the_vocabulary_leads_with_a_byte_that_no_msgpack_value_has():
    assert vocabulary.LEAD == b"\xc1"
    with pytest.raises(msgspec.DecodeError):
        msgspec.msgpack.decode(vocabulary.LEAD)
