"""The checkers of session guarantees and of convergence, their commands, and their proof."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow_consensus.testing.convergence import check_convergence, settled_reads
from onceflow_consensus.testing.history import HistoryUnreadable, Op, Outcome, parse_history
from onceflow_consensus.testing.session_guarantees import Guarantee, check_sessions

G = Guarantee


def told(*operations):
    """Text of a history of operations one after another, such as ``A w x 1`` or ``B r y null``.

    A value behind a ``?`` has an unknown outcome; a replica may follow.
    """
    lines = []
    for position, operation in enumerate(operations):
        process, op, key, value, *replica = operation.split()
        is_unknown, value = value.startswith("?"), json.loads(value.removeprefix("?"))
        line = {"process": process, "op": {"r": "read", "w": "write", "c": "cas"}[op], "key": key}
        line["value"] = value
        end = {"replica": replica[0]} if replica else {}
        lines.append({**line, "type": "invoke", "time": 2 * position})
        kind = "info" if is_unknown else "ok"
        lines.append({**line, "type": kind, "time": 2 * position + 1, **end})
    return "\n".join(json.dumps(line) for line in lines) + "\n"


def circle(*operations):
    return [item.guarantee for item in check_sessions(parse_history(told(*operations)))]


@pytest.mark.parametrize(
    "operations",
    [
        (),
        ("A w x 1", "A r x 1", "B r x null", "B r x 1"),
        ("A w x 1", "B w x 2", "A r x 2", "B r x 2"),
        ("A w x 1", "B w x 2", "A r x 1", "B r x 1"),
        ("A w x 1", "C r x 1", "A w x 2", "C r x 1", "C r x 2"),
        ("A w x ?1", "A r x null", "A r x 1"),
        ("A w x ?1", "A w x 2", "B r x 2", "B r x 1"),
        ("A w x 1", "A w y 1", "B r y 1", "B r x 1"),
        ("A w x 1", "A c x [1,2]", "B r x 1", "B r x 2"),
        ("A c x [null,1]", "A c x ?[1,2]", "A r x 1", "A r x 2"),
        ("A w x 5", "B c x ?[7,8]", "B r x 5"),
    ],
)
def test_what_keeps_the_guarantees_is_valid(operations):
    assert circle(*operations) == []


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        (("A w x 1", "A r x null"), [G.BEGINNING, G.READ_YOUR_WRITES]),
        (("A w x 1", "A w x 2", "A r x 1"), [G.MONOTONIC_WRITES, G.READ_YOUR_WRITES]),
        (("A w x 1", "B r x 1", "B r x null"), [G.BEGINNING, G.MONOTONIC_READS]),
        (
            ("A w x 1", "A w x 2", "B r x 2", "B r x 1"),
            [G.MONOTONIC_WRITES, G.MONOTONIC_READS],
        ),
        (
            ("A w x 1", "B r x 1", "B w x 2", "C r x 2", "C r x 1"),
            [G.WRITES_FOLLOW_READS, G.MONOTONIC_READS],
        ),
        (("A w x 1", "A w y 1", "B r y 1", "B r x null"), [G.BEGINNING, G.MONOTONIC_READS]),
        (
            ("A w x 1", "B w x 2", "C r x 1", "C r x 2", "D r x 2", "D r x 1"),
            [G.MONOTONIC_READS, G.MONOTONIC_READS],
        ),
        (("A r x 1", "A w x 1"), [G.ONLY_WRITTEN]),
        (
            ("A w x 1", "B c x [1,2]", "C r x 2", "C r x 1"),
            [G.WRITES_FOLLOW_READS, G.MONOTONIC_READS],
        ),
        (
            ("A w x 1", "B c x ?[1,2]", "C r x 2", "C r x 1"),
            [G.WRITES_FOLLOW_READS, G.MONOTONIC_READS],
        ),
    ],
)
def test_a_broken_guarantee_is_a_circle_of_statements(operations, expected):
    found = circle(*operations)
    assert sorted(item.name for item in found) == sorted(item.name for item in expected)


@pytest.mark.parametrize("operations", [("A w x 1", "B w x 1"), ("A w x null",)])
def test_values_that_do_not_tell_their_write_cannot_be_judged(operations):
    with pytest.raises(HistoryUnreadable, match="does not tell whose"):
        circle(*operations)


def keeps_in_some_order(operations):
    """Whether some order of the values keeps the definitions: the second opinion, for one key."""
    values = [item.value for item in operations if item.is_update]
    return any(keeps(operations, ("null", *order)) for order in itertools.permutations(values))


def keeps(operations, order):
    place = {value: position for position, value in enumerate(order)}
    known = {}
    for item in operations:
        is_certain = item.outcome is Outcome.OK
        if not item.is_update and not is_certain:
            continue
        floor = known.get(item.process, 0)
        newest = place.get(item.value, -1)
        if newest < floor + item.is_update:
            return False
        if item.op is Op.CAS and item.expected in place:
            found = place[item.expected]
            if found >= newest or (is_certain and found < floor):
                return False
        known[item.process] = newest if is_certain else floor
    return True


@st.composite
def tiny_sessions(draw):
    written, operations = [], []
    for number in range(draw(st.integers(1, 8))):
        process = draw(st.sampled_from("ABC"))
        op = draw(st.sampled_from("rrrrwwc"))
        mark = draw(st.sampled_from(["", "", "", "?"]))
        if op == "r" or len(written) == 4:
            value = draw(st.sampled_from(["null", *written]))
            operations.append(f"{process} r x {mark}{value}")
            continue
        expected = draw(st.sampled_from(["null", *written]))
        value = f"[{expected},{number}]" if op == "c" else str(number)
        written.append(str(number))
        operations.append(f"{process} {op} x {mark}{value}")
    return operations


@settings(max_examples=500, deadline=None)
@given(tiny_sessions())
def test_circles_agree_with_trying_every_order_of_the_values(operations):
    history = parse_history(told(*operations))
    assert (check_sessions(history) == []) == keeps_in_some_order(history)


@pytest.mark.parametrize("seed", range(5))
def test_a_log_read_no_earlier_than_its_session_keeps_all_and_one_read_too_early_is_seen(seed):
    """Sessions move between replicas that lag; each remembers the position that it saw."""
    rng = random.Random(seed)
    log, seen, operations, falsified = [], dict.fromkeys("ABCD", 0), [], []
    for number in range(600):
        session, key = rng.choice("ABCD"), rng.choice("xyz")
        if rng.random() < 0.4:
            log.append((key, number))
            seen[session] = len(log)
            operations.append(f"{session} w {key} {number}")
            falsified.append(operations[-1])
            continue
        position = rng.randint(seen[session], len(log))
        values = [value for other, value in log[:position] if other == key]
        seen[session] = position
        operations.append(f"{session} r {key} {values[-1] if values else 'null'}")
        is_late = number > 500 and len(values) > 5
        falsified.append(f"{session} r {key} {values[0]}" if is_late else operations[-1])
    assert circle(*operations) == []
    assert len(circle(*falsified)) >= 2


# Convergence


def settled(*operations):
    return check_convergence(parse_history(told(*operations)))


def test_replicas_that_show_the_same_at_last_have_converged():
    history = ("A w x 1", "A w x 2", "B r x 1 r1", "B r x 2 r1", "B r x 1 r2", "B r x 2 r2")
    assert settled(*history) == []
    reads = settled_reads(parse_history(told(*history)))
    assert {key: len(by_replica) for key, by_replica in reads.items()} == {'"x"': 2}
    assert settled("A w x ?1", "B r x 1 r1", "B r x 1 r2") == []
    assert settled("A w x ?1", "B r x null r1", "B r x null r2") == []


def test_replicas_that_differ_at_last_have_not():
    found = settled("A w x 1", "B r x 1 r1", "B r x null r2")
    assert sorted((item.replica, item.value) for item in found) == [('"r1"', "1"), ('"r2"', "null")]
    assert [item.value for item in settled("B r x 9 r1", "B r x 9 r2")] == ["9"]


@pytest.mark.parametrize(
    ("operations", "reason"),
    [
        ((), "no two replicas"),
        (("A w x 1", "B r x 1 r1"), "no two replicas"),
        (("A w x 1", "B r x 1 r1", "B r x 1"), "no two replicas"),
        (("B r x 1 r1", "B r x 1 r2", "A w x 1"), "no two replicas"),
        (("A w x 1", "A w y 2", "B r x 1 r1", "B r x 1 r2"), "key .y. was not read"),
        (("A w x 1", "B r x 1 r1", "B r y 1 r2"), "key .x. was not read from replica .r2."),
    ],
)
def test_a_history_that_proves_nothing_cannot_be_judged(operations, reason):
    with pytest.raises(HistoryUnreadable, match=reason):
        settled(*operations)


# The commands


@pytest.mark.parametrize(
    ("name", "valid", "invalid", "words"),
    [
        (
            "session_guarantees",
            ("A w x 1", "A r x 1"),
            ("A w x 1", "A r x null"),
            ("valid: 2 operations of 1 sessions", "read your writes"),
        ),
        (
            "convergence",
            ("A w x 1", "B r x 1 r1", "B r x 1 r2"),
            ("A w x 1", "B r x 1 r1", "B r x null r2"),
            ("valid: 2 replicas agree on 1 keys", "replicas differ"),
        ),
    ],
)
def test_the_commands_tell_valid_invalid_and_unreadable(name, valid, invalid, words, tmp_path):
    def run(text):
        path = tmp_path / "history.jsonl"
        path.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", f"onceflow_consensus.testing.{name}", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        return done.returncode, done.stdout

    assert run(told(*valid)) == (0, words[0] + "\n")
    code, verdict = run(told(*invalid))
    assert code == 1
    assert verdict.startswith("invalid")
    assert words[1] in verdict
    assert run(told(*valid).replace("read", "append")) == (2, "")
