"""Sessions: once, in order, for as long as they last."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from onceflow_consensus import sessions
from onceflow_consensus.errors import InvariantViolation, SnapshotUnreadable
from onceflow_consensus.sessions import (
    RESTORED_SESSION_STRIDE,
    LogClock,
    ReplicatedState,
    Status,
    encode_registration,
    registered_session_id,
    split_outcome,
)
from onceflow_consensus.state_machine import (
    BATCH_VERSION,
    Batch,
    CommandKind,
    decode_batch,
    encode_batch,
)

TIMEOUT_MS = 5_000


class Journal:
    """A state machine that keeps every command, so that one too many shows."""

    def __init__(self, response=None):
        self.taken: list[bytes] = []
        self.told: list[tuple[int, int]] = []
        self.response = response

    def apply_batch(self, index, log_time_ms, commands):
        self.told.append((index, log_time_ms))
        responses = []
        for command in commands:
            self.taken.append(command)
            responses.append(b"%d" % len(self.taken) if self.response is None else self.response)
        return responses

    def query(self, question):
        return question + b"?%d" % len(self.taken)

    def take_snapshot(self):
        return iter(list(self.taken))

    def restore(self, chunks):
        self.taken = list(chunks)


class Log:
    """A log of one replica: appends batches and applies them."""

    def __init__(self, machine=None):
        self.machine = machine or Journal()
        self.state = ReplicatedState(self.machine)
        self.index = 0
        self.now_ms = 1_000

    def append(self, *commands):
        self.index += 1
        outcomes = self.state.apply(self.index, encode_batch(self.now_ms, list(commands)))
        return [split_outcome(outcome) for outcome in outcomes]

    def register(self, timeout_ms=TIMEOUT_MS):
        (outcome,) = self.append(register(timeout_ms))
        assert outcome[0] is Status.OK
        return registered_session_id(outcome[1])

    def send(self, session_id, sequence, payload=b"x", first_unanswered=1):
        (outcome,) = self.append(
            (CommandKind.COMMAND, session_id, sequence, first_unanswered, payload)
        )
        return outcome


def register(timeout_ms=TIMEOUT_MS):
    return (CommandKind.REGISTER, 0, 0, 0, encode_registration(timeout_ms))


def test_a_command_is_applied_and_answered():
    log = Log()
    session = log.register()
    assert log.send(session, 1, b"a") == (Status.OK, b"1")
    assert log.machine.taken == [b"a"]
    assert log.state.query(b"q") == b"q?1"


def test_the_machine_is_told_the_time_of_the_log_which_never_goes_back():
    log = Log()
    session = log.register()
    for sequence, now_ms in enumerate((2_000, 1_500, 3_000), 1):
        log.now_ms = now_ms
        log.send(session, sequence)
    assert log.machine.told == [(2, 2_000), (3, 2_000), (4, 3_000)]


def test_a_repeated_command_gets_the_first_answer_and_takes_effect_once():
    log = Log()
    session = log.register()
    first = log.send(session, 1, b"a")
    log.send(session, 2, b"b")
    assert log.send(session, 1, b"a") == first
    assert log.machine.taken == [b"a", b"b"]


def test_a_command_that_is_repeated_within_a_batch_takes_effect_once():
    log = Log()
    session = log.register()
    command = (CommandKind.COMMAND, session, 1, 1, b"a")
    outcomes = log.append(command, command, (CommandKind.COMMAND, session, 2, 1, b"b"), command)
    assert outcomes == [(Status.OK, b"1"), (Status.OK, b"1"), (Status.OK, b"2"), (Status.OK, b"1")]
    assert log.machine.taken == [b"a", b"b"]


def test_a_command_after_a_missing_one_is_refused_and_can_be_repeated_in_order():
    log = Log()
    session = log.register()
    assert log.send(session, 2, b"b") == (Status.SEQUENCE_GAP, b"")
    assert log.machine.taken == []
    assert log.send(session, 1, b"a")[0] is Status.OK
    assert log.send(session, 2, b"b")[0] is Status.OK
    assert log.machine.taken == [b"a", b"b"]


def test_outcomes_that_were_seen_are_dropped():
    log = Log()
    session = log.register()
    for sequence in range(1, 6):
        log.send(session, sequence, first_unanswered=sequence)
    assert log.send(session, 5, first_unanswered=5) == (Status.OK, b"5")
    assert log.send(session, 4, first_unanswered=4) == (Status.ALREADY_ANSWERED, b"")
    assert len(log.machine.taken) == 5


def test_a_late_command_that_says_less_was_seen_changes_nothing_back():
    log = Log()
    session = log.register()
    log.send(session, 1)
    log.append((CommandKind.KEEP_ALIVE, session, 0, 2, b""))
    assert log.send(session, 2, first_unanswered=1) == (Status.OK, b"2")
    assert log.send(session, 1, first_unanswered=1) == (Status.ALREADY_ANSWERED, b"")


@pytest.mark.parametrize(
    ("sequence", "first_unanswered"),
    [(1, 2), (0, 0), (-1, -1)],
)
def test_numbers_that_contradict_themselves_are_refused(sequence, first_unanswered):
    log = Log()
    session = log.register()
    outcome = log.send(session, sequence, first_unanswered=first_unanswered)
    assert outcome == (Status.BAD_REQUEST, b"")
    assert log.machine.taken == []


def test_a_claim_to_know_an_answer_that_does_not_exist_yet_is_well_defined():
    log = Log()
    session = log.register()
    outcomes = log.append(
        (CommandKind.COMMAND, session, 1, 1, b"a"),
        (CommandKind.COMMAND, session, 2, 2, b"b"),
    )
    assert [status for status, _ in outcomes] == [Status.OK, Status.OK]
    assert log.send(session, 3, first_unanswered=3)[0] is Status.OK
    assert log.send(session, 3, first_unanswered=3)[0] is Status.OK
    assert len(log.machine.taken) == 3
    refused = log.append((CommandKind.KEEP_ALIVE, session, 0, 9, b""))
    assert refused == [(Status.BAD_REQUEST, b"")]


def test_a_session_without_commands_expires_by_the_time_of_the_log():
    log = Log()
    session, other = log.register(), log.register()
    log.now_ms += TIMEOUT_MS
    assert log.send(session, 1)[0] is Status.OK
    log.now_ms += 1
    assert log.send(other, 1) == (Status.SESSION_EXPIRED, b"")
    assert log.send(session, 2)[0] is Status.OK
    assert log.machine.taken == [b"x", b"x"]


def test_a_session_that_expired_does_not_come_back():
    log = Log()
    session = log.register()
    log.send(session, 1)
    log.now_ms += TIMEOUT_MS + 1
    assert log.send(session, 1) == (Status.SESSION_EXPIRED, b"")
    assert log.append((CommandKind.KEEP_ALIVE, session, 0, 1, b""))[0][0] is Status.SESSION_EXPIRED
    assert log.state.session_count == 0


def test_keeping_alive_puts_the_expiry_off():
    log = Log()
    session = log.register()
    for _ in range(3):
        log.now_ms += TIMEOUT_MS
        assert log.append((CommandKind.KEEP_ALIVE, session, 0, 1, b"")) == [(Status.OK, b"")]
    assert log.send(session, 1)[0] is Status.OK


def test_log_time_never_goes_back():
    log = Log()
    session = log.register()
    log.now_ms += TIMEOUT_MS
    log.send(session, 1)
    log.now_ms = 0
    log.send(session, 2)
    assert log.state.log_time_ms == 1_000 + TIMEOUT_MS
    log.now_ms = 1_000 + 2 * TIMEOUT_MS
    assert log.send(session, 3)[0] is Status.OK


def test_a_closed_session_is_gone():
    log = Log()
    session = log.register()
    log.send(session, 1)
    assert log.append((CommandKind.CLOSE, session, 0, 0, b"")) == [(Status.OK, b"")]
    assert log.send(session, 2)[0] is Status.SESSION_EXPIRED
    assert log.register() != session


def test_a_session_that_the_group_never_gave_out_is_unknown():
    log = Log()
    log.register()
    assert log.send(99, 1)[0] is Status.SESSION_UNKNOWN
    assert log.send(0, 1)[0] is Status.SESSION_UNKNOWN


def test_unknown_kinds_and_bad_registrations_are_refused():
    log = Log()
    session = log.register()
    outcomes = log.append(
        (77, session, 1, 1, b""),
        (CommandKind.REGISTER, 0, 0, 0, b"\xc1"),
        register(timeout_ms=1),
        register(timeout_ms=10**9),
    )
    assert {status for status, _ in outcomes} == {Status.BAD_REQUEST}


def test_sessions_are_bounded_and_expired_ones_make_room(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 2)
    log = Log()
    log.register()
    kept = log.register()
    assert log.append(register()) == [(Status.TOO_MANY_SESSIONS, b"")]
    log.now_ms += TIMEOUT_MS
    log.send(kept, 1)
    log.now_ms += 1
    assert log.append(register())[0][0] is Status.OK


def test_outcomes_of_a_session_are_bounded(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_UNANSWERED_COMMANDS", 3)
    log = Log()
    session = log.register()
    for sequence in range(1, 4):
        assert log.send(session, sequence)[0] is Status.OK
    assert log.send(session, 4) == (Status.TOO_MANY_UNANSWERED, b"")
    assert log.send(session, 4, first_unanswered=2) == (Status.OK, b"4")


def test_outcomes_of_all_sessions_are_bounded_and_freed(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_KEPT_OUTCOMES", 2)
    log = Log()
    session, other = log.register(), log.register()
    log.send(session, 1)
    log.send(session, 2)
    assert log.send(other, 1) == (Status.TOO_MANY_UNANSWERED, b"")
    log.append((CommandKind.CLOSE, session, 0, 0, b""))
    assert log.send(other, 1)[0] is Status.OK


def test_outcomes_that_were_seen_do_not_count(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_KEPT_OUTCOMES", 2)
    log = Log()
    session = log.register()
    for sequence in range(1, 10):
        assert log.send(session, sequence, first_unanswered=sequence)[0] is Status.OK


def test_outcomes_in_a_snapshot_count_after_it(monkeypatch):
    monkeypatch.setattr(sessions, "MAX_KEPT_OUTCOMES", 2)
    log = Log()
    session = log.register()
    for sequence in (1, 2):
        log.send(session, sequence)
    copy = Log()
    copy.state.restore(log.state.take_snapshot())
    copy.index = log.index
    assert copy.send(session, 3) == (Status.TOO_MANY_UNANSWERED, b"")


def test_an_entry_without_data_changes_nothing():
    log = Log()
    assert log.state.apply(7, b"") == []
    assert log.state.applied_index == 7


def test_an_entry_is_applied_once_inv_session_2():
    log = Log()
    log.register()
    with pytest.raises(InvariantViolation, match="INV-SESSION-2"):
        log.state.apply(1, b"")


@pytest.mark.parametrize(
    "data",
    [b"\xc1", encode_batch(1, [])[:-1], encode_batch(1, [(0, 1, 1, 1, b"")]) + b"x"],
)
def test_a_damaged_batch_stops_the_replica_inv_session_1(data):
    with pytest.raises(InvariantViolation, match="INV-SESSION-1"):
        Log().state.apply(1, data)


def test_a_batch_of_another_format_stops_the_replica_inv_session_1():
    other = msgspec.msgpack.encode(Batch(BATCH_VERSION + 1, 1, []))
    with pytest.raises(InvariantViolation, match="INV-SESSION-1"):
        decode_batch(other)


def test_a_machine_that_answers_too_few_stops_the_replica_inv_session_3():
    log = Log()
    log.machine.apply_batch = lambda *_: []
    session = log.register()
    with pytest.raises(InvariantViolation, match="INV-SESSION-3"):
        log.send(session, 1)


def test_a_machine_that_answers_too_much_stops_the_replica_inv_session_4():
    log = Log(Journal(response=bytes(sessions.MAX_RESPONSE_BYTES + 1)))
    session = log.register()
    with pytest.raises(InvariantViolation, match="INV-SESSION-4"):
        log.send(session, 1)


def filled_log():
    log = Log()
    session = log.register()
    log.register()
    for sequence in range(1, 5):
        log.send(session, sequence, b"c%d" % sequence, first_unanswered=min(sequence, 3))
    return log, session


@pytest.mark.parametrize("piece_bytes", [1, 3, 7, 10_000])
def test_a_snapshot_keeps_sessions_and_state_however_it_is_cut(piece_bytes):
    log, session = filled_log()
    stream = b"".join(log.state.take_snapshot())
    copy = Log()
    copy.state.restore(stream[at : at + piece_bytes] for at in range(0, len(stream), piece_bytes))
    assert b"".join(copy.state.take_snapshot()) == stream
    assert copy.state.applied_index == log.index
    assert copy.state.log_time_ms == log.state.log_time_ms
    copy.index = log.index
    assert copy.send(session, 4, first_unanswered=3) == (Status.OK, b"4")
    assert copy.send(session, 5, b"c5", first_unanswered=3) == (Status.OK, b"5")
    assert copy.machine.taken == [b"c1", b"c2", b"c3", b"c4", b"c5"]


def test_a_snapshot_is_that_of_its_call():
    log, session = filled_log()
    pieces = log.state.take_snapshot()
    log.send(session, 5, first_unanswered=3)
    copy = Log()
    copy.state.restore(pieces)
    assert copy.state.applied_index == log.index - 1
    copy.index = log.index
    assert copy.send(session, 5, first_unanswered=3)[0] is Status.OK


def test_a_damaged_snapshot_is_refused_and_changes_nothing():
    stream = b"".join(filled_log()[0].state.take_snapshot())
    log = Log()
    log.register()
    before = b"".join(log.state.take_snapshot())
    for damaged in (b"", stream[:3], stream[:-1], stream[:-4], b"\0\0\0\1\xc1" + stream):
        with pytest.raises(SnapshotUnreadable):
            log.state.restore([damaged])
    assert b"".join(log.state.take_snapshot()) == before


def test_a_state_from_a_backup_knows_no_session_and_gives_out_no_id_again():
    log, session = filled_log()
    log.state.forget_sessions()
    assert log.state.session_count == 0
    assert log.send(session, 5)[0] is Status.SESSION_EXPIRED
    assert log.register() > RESTORED_SESSION_STRIDE


def test_the_clock_of_a_leader_goes_on_from_the_log_time():
    clock = LogClock(log_time_ms=70_000, monotonic_ms=123)
    assert clock.stamp(123) == 70_000
    assert clock.stamp(1_123) == 71_000


REPLAY = """
import sys, zlib
from onceflow_consensus.kv import Delete, KeyValueMachine, Put, encode_command
from onceflow_consensus.sessions import ReplicatedState, encode_registration
from onceflow_consensus.state_machine import CommandKind, encode_batch

state = ReplicatedState(KeyValueMachine())
state.apply(1, encode_batch(5, [(CommandKind.REGISTER, 0, 0, 0, encode_registration(9000))] * 3))
for number in range(2, 300):
    key = b"%d" % (number * 7919 % 101)
    command = Delete(key) if number % 5 == 0 else Put(key, b"v" * (number % 9))
    state.apply(number, encode_batch(number, [
        (CommandKind.COMMAND, number % 3 + 1, (number - 2) // 3 + 1, 1, encode_command(command))
    ]))
print(zlib.crc32(b"".join(state.take_snapshot())))
"""


def test_replicas_hold_the_same_bytes_whatever_their_process_hashes_with():
    sums = {
        subprocess.run(
            [sys.executable, "-c", REPLAY],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(sums) == 1
