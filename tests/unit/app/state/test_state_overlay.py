"""Overlays: uncommitted writes over committed rows."""

from __future__ import annotations

import pytest

from harness.task_stores import open_store
from onceflow.state.overlay import Overlay
from onceflow.state.task_store import Changes


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "store")
    rows = [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")]
    store.apply({"counts": Changes(rows, (), 4)}, now_ms=2_000)
    yield store
    store.close()


@pytest.fixture
def overlay():
    return Overlay("counts")


def test_own_writes_come_before_committed_rows(store, overlay):
    overlay.writes[b"b"] = b"20"
    overlay.writes[b"c"] = None
    assert [overlay.get(key, store) for key in (b"a", b"b", b"c", b"z")] == [
        b"1",
        b"20",
        None,
        None,
    ]
    assert overlay.get_many([b"z", b"c", b"b", b"a"], store) == [None, None, b"20", b"1"]
    assert store.get("counts", b"b") == b"2"


def test_an_empty_value_is_a_value(store, overlay):
    overlay.writes[b"a"] = b""
    assert overlay.get(b"a", store) == b""
    assert next(overlay.scan(store)) == (b"a", b"")


def test_scan_merges_in_key_order(store, overlay):
    overlay.writes.update({b"e": b"5", b"b": None, b"aa": b"x", b"c": b"30", b"ab": None})
    merged = [(b"a", b"1"), (b"aa", b"x"), (b"c", b"30"), (b"d", b"4"), (b"e", b"5")]
    assert list(overlay.scan(store)) == merged
    assert list(overlay.scan(store, b"aa", b"d")) == merged[1:3]


def test_scan_sees_the_overlay_as_it_was_at_the_call(store, overlay):
    scan = overlay.scan(store)
    overlay.writes[b"b"] = None
    assert [key for key, _ in scan] == [b"a", b"b", b"c", b"d"]


def test_a_range_delete_hides_rows_and_takes_back_own_writes(store, overlay):
    overlay.writes[b"b"] = b"20"
    overlay.delete_range(b"b", b"d")
    assert overlay.get(b"b", store) is None
    assert overlay.get_many([b"a", b"b", b"c", b"d"], store) == [b"1", None, None, b"4"]
    overlay.writes[b"c"] = b"again"
    assert list(overlay.scan(store)) == [(b"a", b"1"), (b"c", b"again"), (b"d", b"4")]
    store.apply({"counts": overlay.freeze(5)}, now_ms=3_000)
    overlay.drop()
    assert not overlay
    assert list(overlay.scan(store)) == [(b"a", b"1"), (b"c", b"again"), (b"d", b"4")]


def test_an_empty_range_deletes_nothing(store, overlay):
    overlay.delete_range(b"c", b"c")
    overlay.delete_range(b"d", b"a")
    assert not overlay
    assert len(list(overlay.scan(store))) == 4


def test_frozen_changes_do_not_follow_later_writes(overlay):
    overlay.writes[b"a"] = b"1"
    frozen = overlay.freeze()
    overlay.writes[b"b"] = b"2"
    overlay.delete_range(b"x", b"y")
    assert frozen == ([(b"a", b"1")], (), None)


def test_a_dropped_overlay_leaves_no_trace(store, overlay):
    overlay.writes[b"a"] = None
    overlay.delete_range(b"b", b"z")
    assert overlay
    overlay.drop()
    assert not overlay
    assert len(list(overlay.scan(store))) == 4
