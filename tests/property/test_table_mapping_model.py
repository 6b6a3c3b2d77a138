"""A table under random epochs, aborts and restarts equals a dictionary that is rolled back.

The model keys by what Faust's changelog keys by: the encoded bytes. So ``1``, ``1.0``, ``True`` and
``"1"`` are four keys, and what comes out is what JSON makes of what was put in.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from harness.table_driver import TableDriver, make_app

KEYS = st.sampled_from(
    [
        *(1, 1.0, True, "1", "true", 0, 0.0, -0.0, False, "", "a", "ä", 2**53, -1, "null"),
        *(("a", 1), ("a", True), ("a", 1.0)),
    ]
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
)


def encoded(key):
    """The key's bytes in the changelog."""
    return json.dumps(key, separators=(",", ":"), ensure_ascii=False).encode()


class TableModel(RuleBasedStateMachine):
    """Two partitions of one table beside two dictionaries each: committed, and as of the epoch."""

    @initialize()
    def begin(self):
        self.directory = Path(tempfile.mkdtemp(prefix="table-model-"))
        self.app = make_app()
        self.table = self.app.Table("model", default=int)
        self.driver = TableDriver(self.app, self.directory / "stores").open()
        self.committed = [{}, {}]
        self.epoch = [{}, {}]

    def teardown(self):
        if hasattr(self, "driver"):
            self.driver.close()
            shutil.rmtree(self.directory)

    @rule(number=st.integers(0, 1), key=KEYS, value=VALUES)
    def put(self, number, key, value):
        with self.driver.record(number):
            self.table[key] = value
        self.epoch[number][encoded(key)] = value

    @rule(number=st.integers(0, 1), key=KEYS, value=st.lists(st.integers(0, 9), max_size=3))
    def put_and_change_the_object(self, number, key, value):
        with self.driver.record(number):
            self.table[key] = value
            before = list(value)
            value.append("later")
            read = self.table[key]
            read.append("a copy")
            assert self.table[key] == before
        self.epoch[number][encoded(key)] = before

    @rule(number=st.integers(0, 1), key=KEYS)
    def increment(self, number, key):
        with self.driver.record(number):
            present = self.epoch[number].get(encoded(key), 0)
            if type(present) not in {int, float} or abs(present) > 2**60:
                return
            self.table[key] += 1
            self.epoch[number][encoded(key)] = present + 1

    @rule(number=st.integers(0, 1), key=KEYS)
    def delete(self, number, key):
        with self.driver.record(number):
            if encoded(key) in self.epoch[number]:
                del self.table[key]
                del self.epoch[number][encoded(key)]
            else:
                with pytest.raises(KeyError):
                    del self.table[key]

    @rule(number=st.integers(0, 1), key=KEYS)
    def pop_and_setdefault(self, number, key):
        with self.driver.record(number):
            wanted = self.epoch[number].pop(encoded(key), "nothing")
            assert same(self.table.pop(key, "nothing"), wanted)
            assert self.table.setdefault(key, 5) == 5
        self.epoch[number][encoded(key)] = 5

    @rule(number=st.integers(0, 1), key=KEYS)
    def read(self, number, key):
        with self.driver.record(number):
            row = encoded(key)
            assert (key in self.table) is (row in self.epoch[number])
            wanted = self.epoch[number].get(row, 0)
            assert same(self.table[key], wanted)
            assert same(self.table.get(key), self.epoch[number].get(row))

    @rule(number=st.integers(0, 1))
    def clear(self, number):
        with self.driver.record(number):
            self.table.clear()
        self.epoch[number] = {}

    @rule(value=st.one_of(st.integers(2**64, 2**70), st.just(object())))
    def refuse_what_cannot_be_encoded(self, value):
        with self.driver.record(0):
            before = dict(self.epoch[0])
            with pytest.raises((TypeError, ValueError)):
                self.table["a"] = value
            assert ("a" in self.table) is (encoded("a") in before)

    @rule()
    def commit(self):
        self.driver.commit_now()
        self.committed = [dict(part) for part in self.epoch]

    @rule()
    def abort(self):
        self.driver.abort()
        self.epoch = [dict(part) for part in self.committed]

    @rule()
    def restart(self):
        self.driver.abort()
        self.driver.close()
        self.driver.open()
        self.epoch = [dict(part) for part in self.committed]

    @precondition(lambda self: hasattr(self, "driver"))
    @rule()
    def rebuild(self):
        self.driver.abort()
        self.driver.close()
        shutil.rmtree(self.directory / "stores")
        self.driver.open()
        self.epoch = [dict(part) for part in self.committed]

    @invariant()
    def iteration_shows_the_epoch(self):
        if not hasattr(self, "driver"):
            return
        for number in (0, 1):
            with self.driver.record(number):
                pairs = {encoded(key): value for key, value in self.table.items()}
                assert len(self.table) == len(self.epoch[number])
            assert pairs.keys() == self.epoch[number].keys()
            for row, value in pairs.items():
                assert same(value, self.epoch[number][row])

    @invariant()
    def outside_of_records_only_committed_state_is_seen(self):
        if not hasattr(self, "driver"):
            return
        rows = [encoded(key) for key in self.table]
        assert sorted(rows) == sorted([*self.committed[0], *self.committed[1]])


def same(found, wanted):
    """Equal and of the same class, at every level."""
    return type(found) is type(wanted) and found == wanted


TestTableModel = TableModel.TestCase
TestTableModel.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
