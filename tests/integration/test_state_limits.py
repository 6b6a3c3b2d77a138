"""Stores at the limits of memory and disk, in processes of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness.store_load import MEMORY_BUDGET_BYTES, MEMORY_DATA_BYTES
from harness.store_writer import EPOCH_MS, fold
from harness.task_stores import TABLES, open_store


def run_load(kind, path):
    command = [sys.executable, "-m", "harness.store_load", kind, str(path)]
    done = subprocess.run(command, env={"PYTHONPATH": "tests"}, capture_output=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_stores_of_500_mb_stay_within_a_budget_of_64_mb(tmp_path):
    found = run_load("memory", tmp_path)
    assert found["sst_bytes"] > 0.9 * MEMORY_DATA_BYTES
    assert found["rows_read"] == found["rows_written"]
    # Besides the budget: the batch being written, merges in progress, open files, the allocator.
    assert found["growth_bytes"] < MEMORY_BUDGET_BYTES + 64 * 1024 * 1024


def test_a_full_disk_stops_the_worker_and_leaves_a_prefix(tmp_path):
    path = tmp_path / "store"
    found = run_load("full", path)
    assert found["error"] == "StorageFailed"
    assert found["exit_code"] == 1
    assert "Free space" in found["text"]
    store = open_store(path, now_ms=1_000 + found["applied"] * EPOCH_MS)
    assert store.rebuild_reasons == {}
    positions = {store.changelog_position(table) or 0 for table in TABLES}
    (position,) = positions
    assert position <= found["applied"]
    expected = fold(position)
    for table in TABLES:
        assert dict(store.scan(table)) == expected[table]
    store.close()
