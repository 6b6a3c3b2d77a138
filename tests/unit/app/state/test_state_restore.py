"""Bulk loading: pieces, positions, both key layouts."""

from __future__ import annotations

import pytest

from harness.task_stores import open_store
from onceflow.errors import DeserializationError
from onceflow.limits import RESTORE_CHUNK_BYTES, RESTORE_CHUNK_RECORDS
from onceflow.state.keys import window_key
from onceflow.state.restore import KeyLayout, RestoreLoader


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "store")
    yield store
    store.close()


def test_the_last_record_of_a_key_counts_and_tombstones_delete(store):
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    loader.load([b"a", b"b", b"a", b"c"], [b"1", b"2", b"3", b"4"], 4, now_ms=2_000)
    loader.load([b"b", b"c", b"c"], [None, None, b"5"], 9, now_ms=2_000)
    assert list(store.scan("counts")) == [(b"a", b"3"), (b"c", b"5")]
    assert store.changelog_position("counts") == 9


def test_windowed_keys_are_stored_in_window_order(store):
    loader = RestoreLoader(store, "counts", KeyLayout.WINDOWED)
    loader.load([b'["k",[60.0,119.9]]', b'["k",[0.0,59.9]]'], [b"2", b"1"], 2, now_ms=2_000)
    assert list(store.scan("counts")) == [
        (window_key(b'"k"', 0.0, 59.9), b"1"),
        (window_key(b'"k"', 60.0, 119.9), b"2"),
    ]


def test_pieces_are_bounded_in_records_and_bring_their_own_positions(store):
    count = 2 * RESTORE_CHUNK_RECORDS + 5
    offsets = range(100, 100 + 2 * count, 2)
    keys = [b"%08d" % n for n in range(count)]
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    loader.end_offset = offsets[-1] + 1
    positions = []
    for position in loader.load_pieces(keys, keys, offsets, now_ms=2_000):
        positions.append(position)
        assert store.changelog_position("counts") == position
    at = RESTORE_CHUNK_RECORDS
    assert positions == [offsets[at - 1] + 1, offsets[2 * at - 1] + 1, offsets[-1] + 1]
    assert sum(1 for _ in store.scan_keys("counts")) == count
    progress = loader.progress
    assert (progress.records, progress.loaded_bytes) == (count, 16 * count)
    assert progress.remaining_records == 0


def test_pieces_are_bounded_in_bytes_but_never_empty(store):
    large = bytes(RESTORE_CHUNK_BYTES)
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    keys = [b"a", b"b", b"c"]
    assert list(loader.load_pieces(keys, [large] * 3, range(3), now_ms=2_000)) == [1, 2, 3]
    assert store.get_many("counts", keys) == [large] * 3


def test_a_record_without_key_stops_the_restore_before_anything_is_written(store):
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    with pytest.raises(DeserializationError, match="without key"):
        loader.load([b"a", None], [b"1", b"2"], 2, now_ms=2_000)
    assert store.changelog_position("counts") is None
    assert list(store.scan("counts")) == []


def test_columns_of_different_length_are_refused(store):
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    with pytest.raises(ValueError, match="shorter"):
        loader.load([b"a", b"b"], [b"1"], 2, now_ms=2_000)


def test_progress_before_the_end_is_known_has_no_remainder(store):
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    assert loader.progress == (0, 0, None, None)
    assert loader.progress.remaining_records is None
    loader.end_offset = 12
    assert loader.progress.remaining_records == 12


def test_caught_up_keeps_the_position(store):
    loader = RestoreLoader(store, "counts", KeyLayout.PLAIN)
    loader.load([b"a"], [b"1"], 1, now_ms=2_000)
    loader.caught_up(now_ms=3_000)
    assert store.changelog_position("counts") == 1
