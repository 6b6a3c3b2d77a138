"""The checker of linearizability: known histories, its command, and its own proof.

Proof: on tiny histories it agrees with a checker that tries every order, and a counterexample is
wrong by that checker too.
"""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onceflow_consensus.testing import linearization
from onceflow_consensus.testing.history import HistoryUnreadable, Op, Outcome, parse_history
from onceflow_consensus.testing.linearizability import check_linearizability, judge

TYPES = {"+": "invoke", "=": "ok", "!": "fail", "?": "info"}


def history(*events, key="x"):
    """Text of a history from events such as ``1+w5`` (invoke) or ``2=r5`` (ok)."""
    lines = []
    for position, event in enumerate(events):
        process, kind, op, value = event[0], event[1], event[2], event[3:]
        if op == "c":
            numbers = [int(number) if number else None for number in value.split(":")]
        else:
            numbers = int(value) if value else None
        name = {"r": "read", "w": "write", "c": "cas"}[op]
        lines.append(
            {"process": int(process), "type": TYPES[kind], "op": name, "key": key,
             "value": numbers, "time": position}
        )  # fmt: skip
    return "\n".join(json.dumps(line) for line in lines) + "\n"


def counterexample(*events):
    return check_linearizability(parse_history(history(*events)))


VALID = {
    "nothing happened": (),
    "what was never written is null": ("1+r", "1=r"),
    "one after another": ("1+w1", "1=w1", "2+r", "2=r1"),
    "a read during a write may see either": ("1+w1", "2+r", "2=r", "3+r", "3=r1", "1=w1"),
    "a failed write is not there": ("1+w1", "1!w1", "2+r", "2=r"),
    "an unknown write may happen": ("1+w1", "1?w1", "2+r", "2=r1"),
    "an unknown write may happen late": ("1+w1", "1?w1", "2+r", "2=r", "3+r", "3=r1"),
    "an unknown write may never happen": ("1+w1", "1?w1", "2+r", "2=r", "3+r", "3=r"),
    "a write without an end may happen": ("1+w1", "2+r", "2=r1"),
    "an unknown read says nothing": ("1+w1", "1=w1", "2+r", "2?r"),
    "a compare-and-set from nothing": ("1+c:1", "1=c:1", "2+c1:2", "2=c1:2", "1+r", "1=r2"),
    "a chain of unknown ones": ("1+w1", "1?w1", "2+c1:2", "2?c1:2", "3+r", "3=r2"),
    "the same value twice": ("1+w1", "1=w1", "2+w2", "2=w2", "1+w1", "1=w1", "3+r", "3=r1"),
    "a value left by a compare-and-set": ("1+w1", "1=w1", "2+c1:2", "3+r", "3=r1", "2=c1:2"),
    "writes that nobody sees": ("1+w1", "2+w2", "3+w3", "1=w1", "2=w2", "3=w3", "1+r", "1=r2"),
}

INVALID = {
    "a value that nobody wrote": (("1+r", "1=r1"), 1),
    "a failed write was seen": (("1+w1", "1!w1", "2+r", "2=r1"), 1),
    "a stale read": (("1+w1", "1=w1", "2+r", "2=r"), 2),
    "a lost write": (("1+w1", "1=w1", "1+w2", "1=w2", "2+r", "2=r1"), 3),
    "back in time": (("1+w1", "2+r", "2=r1", "2+r", "2=r", "1=w1"), 3),
    "an unknown write happened twice": (
        ("1+w1", "1?w1", "2+r", "2=r1", "2+w2", "2=w2", "2+r", "2=r1"),
        4,
    ),
    "both compare-and-sets won": (("1+c:1", "2+c:2", "1=c:1", "2=c:2"), 2),
    "a compare-and-set on what was not there": (("1+w1", "1=w1", "2+c2:3", "2=c2:3"), 1),
    "an update between two reads": (
        ("1+w1", "1=w1", "2+w2", "3+r", "3=r2", "3+r", "3=r1", "2=w2"),
        4,
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_a_history_with_an_order_is_valid(name):
    assert counterexample(*VALID[name]) == []


@pytest.mark.parametrize("name", INVALID)
def test_a_history_without_an_order_is_explained_by_as_few_operations_as_possible(name):
    events, size = INVALID[name]
    found = counterexample(*events)
    assert len(found) == size
    assert not has_an_order(found)


def test_keys_are_judged_one_by_one_and_the_smallest_counterexample_is_shown():
    right = history("1+w1", "1=w1")
    wrong = history("2+w1", "2=w1", "2+w2", "2=w2", "3+r", "3=r1", key="long")
    shorter = history("4+r", "4=r9", key="short")
    code, verdict = judge(parse_history(right + wrong + shorter))
    assert code == 1
    assert verdict.splitlines() == [
        "invalid: no order explains these 1 operations",
        'process 4: read 9, key "short", from 0 to 1',
    ]


def test_time_orders_the_lines_and_the_file_orders_equal_times():
    lines = history("1+w1", "1=w1", "2+r", "2=r1").splitlines()
    assert counterexample() == check_linearizability(parse_history("\n".join(reversed(lines))))
    same_time = [json.dumps({**json.loads(line), "time": 7}) for line in lines]
    assert check_linearizability(parse_history("\n".join(same_time))) == []
    swapped = [*same_time[2:], *same_time[:2]]
    assert len(check_linearizability(parse_history("\n".join(swapped)))) == 1


# A second opinion: every order of every choice of the unknown


def has_an_order(operations):
    required = [item for item in operations if item.outcome is Outcome.OK]
    unknown = [
        item for item in operations if item.outcome is Outcome.UNKNOWN and item.op is not Op.READ
    ]
    return any(
        order_exists([*required, *chosen], "null")
        for count in range(len(unknown) + 1)
        for chosen in itertools.combinations(unknown, count)
    )


def order_exists(left, value):
    if not left:
        return True
    for item in left:
        others = [other for other in left if other is not item]
        if any(o.returned is not None and o.returned < item.invoked for o in others):
            continue
        if item.op is Op.WRITE or (item.value if item.op is Op.READ else item.expected) == value:
            after = value if item.op is Op.READ else item.value
            if order_exists(others, after):
                return True
    return False


@st.composite
def tiny_histories(draw):
    processes, events, running = "1234", [], {}
    budget = draw(st.integers(1, 7))
    while budget or running:
        process = draw(st.sampled_from(processes))
        if process not in running:
            if not budget:
                process = draw(st.sampled_from(sorted(running)))
            else:
                budget -= 1
                op = draw(st.sampled_from(["w0", "w1", "w2", "r", "r", "c0:1", "c1:2", "c:1"]))
                running[process] = op
                events.append(f"{process}+{op}")
                continue
        op = running.pop(process)
        end = draw(st.sampled_from("===?!"))
        if op == "r" and end == "=":
            op = draw(st.sampled_from(["r", "r0", "r1", "r2"]))
        events.append(f"{process}{end}{op}")
    return tuple(events)


@settings(max_examples=600, deadline=None)
@given(tiny_histories())
def test_the_search_agrees_with_trying_every_order(events):
    operations = parse_history(history(*events))
    found = check_linearizability(operations)
    assert (found == []) == has_an_order(operations)
    if found:
        assert not has_an_order(found)


def simulated(seed, *, keys, processes, operations, values, unknown=0.02):
    """A history that a single copy gave; each operation takes effect somewhere in its time."""
    rng = random.Random(seed)
    lines, store, now = [], {}, 0
    names = [f"p{number}" for number in range(processes)]
    running = {}
    started = 0
    while started < operations or running:
        now += 1
        process = rng.choice(names)
        if process not in running and started < operations:
            started += 1
            key, op = f"k{rng.randrange(keys)}", rng.choice(["read", "write", "cas"])
            value = rng.randrange(values) if values else started
            if op == "cas":
                value = [store.get(key), value]
            running[process] = [key, op, value, False, None]
            shown = None if op == "read" else value
            lines.append((process, "invoke", op, key, shown, now))
        elif process in running:
            key, op, value, is_done, seen = item = running[process]
            if not is_done:
                item[3] = True
                item[4] = store.get(key)
                if op == "write":
                    store[key] = value
                elif op == "cas" and store.get(key) == value[0]:
                    store[key] = value[1]
                elif op == "cas":
                    item[4] = "mismatch"
                continue
            del running[process]
            end = "fail" if seen == "mismatch" else "ok"
            if rng.random() < unknown:
                end = "info"
                names[names.index(process)] = f"p{now}-{process}"
            lines.append((process, end, op, key, seen if op == "read" else value, now))
    fields = ("process", "type", "op", "key", "value", "time")
    return "\n".join(json.dumps(dict(zip(fields, line, strict=True))) for line in lines)


def plain_search(operations):
    """Whether there is an order, by Wing and Gong's search with nothing but a memory."""
    items = [each for each in operations if each.is_update or each.outcome is Outcome.OK]
    required = {index for index, item in enumerate(items) if item.outcome is Outcome.OK}
    met, stack = set(), [(frozenset(), "null")]
    while stack:
        taken, value = stack.pop()
        if required <= taken:
            return True
        if (taken, value) in met:
            continue
        met.add((taken, value))
        first_end = min(items[index].returned for index in required - taken)
        for index, item in enumerate(items):
            if index not in taken and item.invoked < first_end:
                seen = {Op.READ: item.value, Op.WRITE: value, Op.CAS: item.expected}[item.op]
                if seen == value:
                    after = item.value if item.is_update else value
                    stack.append((taken | {index}, after))
    return False


def test_the_search_agrees_with_a_plain_one_on_longer_histories():
    verdicts = {True: 0, False: 0}
    for seed in range(300):
        rng = random.Random(seed)
        text = simulated(
            seed,
            keys=1,
            processes=rng.randint(2, 5),
            operations=rng.randint(6, 20),
            values=rng.choice([0, 2, 3, 5]),
            unknown=rng.choice([0, 0.1, 0.3]),
        )
        lines = [json.loads(line) for line in text.splitlines()]
        reads = [line for line in lines if (line["op"], line["type"]) == ("read", "ok")]
        for changed in rng.sample(reads, min(len(reads), rng.randint(0, 2))):
            changed["value"] = rng.choice(reads)["value"]
        operations = parse_history("\n".join(json.dumps(line) for line in lines))
        found = check_linearizability(operations)
        verdict = plain_search(operations)
        assert (found == []) == verdict, seed
        assert verdict or not plain_search(found), seed
        verdicts[verdict] += 1
    assert min(verdicts.values()) > 20


@pytest.mark.parametrize(
    ("keys", "processes", "operations", "values"),
    [(100, 16, 12_000, 0), (100, 16, 6_000, 5), (1, 12, 3_000, 0), (1, 8, 3_000, 4)],
)
def test_long_histories_are_judged_in_seconds_and_one_false_read_is_found(
    keys, processes, operations, values
):
    text = simulated(
        operations, keys=keys, processes=processes, operations=operations, values=values
    )
    start = time.process_time()
    assert check_linearizability(parse_history(text)) == []
    assert time.process_time() - start < 20
    lines = [json.loads(line) for line in text.splitlines()]
    reads = [line for line in lines if (line["op"], line["type"]) == ("read", "ok")]
    reads[-1]["value"] = "never written"
    if not values:
        same_key = [line for line in reads if line["key"] == reads[-1]["key"] and line["value"]]
        reads[-1]["value"] = same_key[0]["value"]
    falsified = parse_history("\n".join(json.dumps(line) for line in lines))
    found = check_linearizability(falsified)
    assert 0 < len(found) <= 5
    assert not has_an_order(found)
    assert any(item.value == json.dumps(reads[-1]["value"]) for item in found)


def test_a_search_beyond_its_bound_is_undecided(monkeypatch):
    monkeypatch.setattr(linearization, "MAX_CONFIGURATIONS", 1)
    events = [f"{process}{kind}w{process}" for process in "123" for kind in "+="]
    with pytest.raises(HistoryUnreadable, match="undecided"):
        counterexample(*events, "1+r", "1=r3")


# The command


def run_command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "onceflow_consensus.testing.linearizability", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_tells_valid_and_invalid(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(history("1+w1", "1=w1", "2+r", "2=r1"), encoding="utf-8")
    done = run_command(path)
    assert (done.returncode, done.stdout) == (0, "valid: 2 operations on 1 keys\n")
    path.write_text(history("1+w1", "1=w1", "2+r", "2=r"), encoding="utf-8")
    done = run_command(path)
    assert done.returncode == 1
    assert done.stdout.startswith("invalid: no order explains these 2 operations\n")
    assert run_command(tmp_path / "absent").returncode == 2
    assert run_command().returncode == 2


GOOD = {"process": 1, "type": "invoke", "op": "write", "key": "x", "value": 1, "time": 0}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["{"], "line 1: not JSON"),
        (["[]"], "line 1: not a JSON object"),
        ([{**GOOD, "op": "append"}], "line 1: unknown op 'append'"),
        ([{**GOOD, "op": ["read"]}], "line 1: unknown op"),
        ([{**GOOD, "type": "begin"}], "line 1: unknown type 'begin'"),
        ([{**GOOD, "type": {}}], "line 1: unknown type"),
        ([{**GOOD, "time": "early"}], "line 1: the time is not a number"),
        ([{**GOOD, "time": float("nan")}], "line 1: the time is not a number"),
        ([{**GOOD, "time": True}], "line 1: the time is not a number"),
        ([{**GOOD, "op": "cas"}], r"line 1: the value of a cas is \[expected, new\]"),
        ([{**GOOD, "type": "ok"}], "line 1: process 1 ends what it has not begun"),
        ([GOOD, GOOD], "line 2: process 1 has not ended the one before"),
        ([GOOD, {**GOOD, "type": "ok", "key": "y"}], "line 2: process 1 ends another operation"),
        ([GOOD, {**GOOD, "type": "ok", "value": 2}], "line 2: process 1 ends it with another"),
        *(
            ([{key: value for key, value in GOOD.items() if key != name}], f"'{name}' is missing")
            for name in ("process", "type", "op", "key", "time", "value")
        ),
    ],
)
def test_what_cannot_be_judged_is_refused_with_its_line(lines, reason, tmp_path):
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    with pytest.raises(HistoryUnreadable, match=reason):
        parse_history(text)


def test_the_command_refuses_an_unknown_op(tmp_path):
    path = tmp_path / "history.jsonl"
    path.write_text(json.dumps({**GOOD, "op": "append"}), encoding="utf-8")
    done = run_command(path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown op 'append'" in done.stderr
