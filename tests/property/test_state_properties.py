"""Properties of local state: key order, round trips, overlays and stores against models."""

from __future__ import annotations

import math
import shutil
import tempfile
from pathlib import Path

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from harness.task_stores import open_store
from onceflow.errors import DeserializationError
from onceflow.state.keys import (
    decode_seconds,
    encode_seconds,
    from_changelog,
    split_window_key,
    to_changelog,
    window_key,
)
from onceflow.state.memory import MemoryBudget
from onceflow.state.overlay import Overlay

BOUNDS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | BOUNDS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
# Keys over a small alphabet, so that writes, deletes and ranges meet.
KEYS = st.binary(max_size=3).map(lambda key: bytes(byte % 3 for byte in key))
VALUES = st.none() | st.binary(max_size=4)
RANGES = st.tuples(KEYS, KEYS)


@given(BOUNDS, BOUNDS)
def test_encoded_seconds_sort_as_numbers_and_round_trip(one, other):
    assert decode_seconds(encode_seconds(one)) == one
    assert math.copysign(1, decode_seconds(encode_seconds(one))) == math.copysign(1, one)
    if one != other:
        assert (encode_seconds(one) < encode_seconds(other)) == (one < other)


@given(st.tuples(BOUNDS, BOUNDS, st.text()), st.tuples(BOUNDS, BOUNDS, st.text()))
def test_window_keys_sort_as_start_end_and_inner_bytes(one, other):
    # JSON text as inner key; adding zero makes -0.0 and 0.0 one number, as tuples see them.
    (one, other) = (
        (start + 0.0, end + 0.0, orjson.dumps(inner)) for start, end, inner in (one, other)
    )
    keys = [window_key(inner, start, end) for start, end, inner in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)
    assert split_window_key(keys[0]) == (one[2], one[0], one[1])


@given(JSON, BOUNDS, BOUNDS)
def test_windowed_changelog_keys_round_trip(key, start, end):
    changelog_key = orjson.dumps([key, [start, end]])
    store_key = from_changelog(changelog_key)
    assert store_key == window_key(orjson.dumps(key), start, end)
    assert to_changelog(store_key) == changelog_key


@given(st.binary() | st.binary().map(lambda key: b"[" + key + b",[1.0,2.0]]"))
def test_any_bytes_round_trip_or_are_refused(key):
    try:
        store_key = from_changelog(key)
    except DeserializationError:
        return
    assert to_changelog(store_key) == key


class StoreModel(RuleBasedStateMachine):
    """An overlay over a store, against two dictionaries: what is committed and what is seen."""

    def __init__(self):
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="onceflow-store-"))
        self.budget = MemoryBudget(16 * 1024 * 1024)
        self.overlay = Overlay("counts")
        self.committed: dict[bytes, bytes] = {}
        self.seen: dict[bytes, bytes] = {}
        self.position = 0
        self.clock_ms = 1_000

    @initialize()
    def open(self):
        self.store = open_store(self.root / "store", budget=self.budget, now_ms=self.clock_ms)
        assert self.store.rebuild_reasons == {}

    @rule(key=KEYS, value=VALUES)
    def write(self, key, value):
        self.overlay.writes[key] = value
        self.seen.pop(key, None)
        if value is not None:
            self.seen[key] = value

    @rule(bounds=RANGES)
    def delete_range(self, bounds):
        start, stop = bounds
        self.overlay.delete_range(start, stop)
        self.seen = {key: row for key, row in self.seen.items() if not start <= key < stop}

    @rule(moves=st.integers(0, 3), waits_ms=st.sampled_from([1, 6_000]))
    def commit(self, moves, waits_ms):
        self.position += moves
        self.clock_ms += waits_ms
        self.store.apply({"counts": self.overlay.freeze(self.position)}, now_ms=self.clock_ms)
        self.overlay.drop()
        self.committed = dict(self.seen)

    @rule()
    def abort(self):
        self.overlay.drop()
        self.seen = dict(self.committed)

    @rule()
    def reopen(self):
        self.abort()
        self.store.close()
        self.open()
        assert (self.store.changelog_position("counts") or 0) == self.position

    @precondition(lambda self: self.position > 0)
    @rule()
    def lose_the_changelogs_end(self):
        self.abort()
        if self.store.changelog_position("counts") is not None:
            assert not self.store.check_position("counts", self.position - 1)
        self.store.rebuild_reasons.clear()
        self.position = 0
        self.committed = {}
        self.seen = {}

    @rule(keys=st.lists(KEYS, max_size=5), bounds=st.tuples(st.none() | KEYS, st.none() | KEYS))
    def read(self, keys, bounds):
        start, stop = bounds
        for rows, expected in ((self.overlay, self.seen), (None, self.committed)):
            inside = sorted(
                (key, value)
                for key, value in expected.items()
                if (start is None or start <= key) and (stop is None or key < stop)
            )
            if rows is None:
                assert list(self.store.scan("counts", start, stop)) == inside
                assert list(self.store.scan_keys("counts", start, stop)) == [k for k, _ in inside]
                assert self.store.get_many("counts", keys) == [expected.get(key) for key in keys]
            else:
                assert list(rows.scan(self.store, start, stop)) == inside
                assert rows.get_many(keys, self.store) == [expected.get(key) for key in keys]
                assert [rows.get(key, self.store) for key in keys] == list(map(expected.get, keys))

    @invariant()
    def the_store_holds_committed_rows_only(self):
        if hasattr(self, "store"):
            assert dict(self.store.scan("counts")) == self.committed
            assert self.store.first_key("counts") == min(self.committed, default=None)
            assert self.store.last_key("counts") == max(self.committed, default=None)

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()
        shutil.rmtree(self.root)


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
