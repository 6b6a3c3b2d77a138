"""A store is whole on disk at every moment of its closing: all families come in one flush."""

from __future__ import annotations

import json

from onceflow.state.memory import MemoryBudget
from onceflow.state.overlay import Changes
from onceflow.state.task_store import StoreIdentity, TaskStore

IDENTITY = StoreIdentity("app", "cluster", {"orders": "id-1", "sums": "id-2"})


def opened(path):
    return TaskStore.open(
        path, IDENTITY, ["orders", "sums"], MemoryBudget(32 << 20), now_ms=1, trusted_for_ms=10**9
    )


def flushes(path):
    """RocksDB's account of what it flushed: reasons in order."""
    events = [
        json.loads(line.partition("EVENT_LOG_v1 ")[2])
        for line in (path / "LOG").read_text().splitlines()
        if '"flush_started"' in line
    ]
    return [(event["flush_reason"], event["num_entries"]) for event in events]


def test_closing_flushes_all_tables_at_once_before_rocksdict_does_so_one_by_one(tmp_path):
    path = tmp_path / "store"
    store = opened(path)
    changes = {
        "orders": Changes([(b"k", b"v")])._replace(position=5),
        "sums": Changes([(b"k", b"v"), (b"l", b"w")])._replace(position=7),
    }
    store.apply(changes, now_ms=2)
    store.close()
    by_one, together = [], []
    for reason, entries in flushes(path):
        (by_one if reason == "Manual Flush" else together).append(entries)
    assert sorted(together)[:2] == [1, 2]
    assert len(together) == 3
    # What is left for rocksdict is the row that starts a flush.
    assert by_one in ([], [1])
    again = opened(path)
    assert again.changelog_position("sums") == 7
    assert dict(again.scan("sums")) == {b"k": b"v", b"l": b"w"}
    again.close()


def test_a_store_without_changes_closes_at_once(tmp_path):
    store = opened(tmp_path / "store")
    store.close()
    store.close()
