"""The memory budget of a process's stores; the bound itself is an integration test."""

from __future__ import annotations

import pytest

from harness.task_stores import open_store
from onceflow.errors import ConfigError
from onceflow.limits import STORE_MEMORY_BYTES_MIN
from onceflow.state.memory import MemoryBudget
from onceflow.state.task_store import Changes


def test_a_budget_that_is_too_small_is_refused():
    with pytest.raises(ConfigError, match=str(STORE_MEMORY_BYTES_MIN)):
        MemoryBudget(STORE_MEMORY_BYTES_MIN - 1)


def test_stores_share_one_budget_and_give_their_memory_back(tmp_path):
    budget = MemoryBudget(STORE_MEMORY_BYTES_MIN)
    stores = [open_store(tmp_path / str(n), budget=budget) for n in range(3)]
    before_bytes = budget.memtable_bytes()
    for store in stores:
        store.apply({"counts": Changes([(b"a", bytes(100_000))], (), 1)}, now_ms=2_000)
    assert budget.memtable_bytes() - before_bytes >= 300_000
    assert budget.cache_bytes() >= budget.memtable_bytes() - before_bytes
    for store in stores:
        store.close()
    assert budget.memtable_bytes() < 100_000


def test_memtables_stay_below_their_share(tmp_path):
    budget = MemoryBudget(STORE_MEMORY_BYTES_MIN)
    stores = [open_store(tmp_path / str(n), budget=budget) for n in range(3)]
    highest_bytes = 0
    for step in range(60):
        rows = [(b"%d-%06d" % (step, n), bytes(200)) for n in range(1_000)]
        stores[step % 3].apply({"totals": Changes(rows, (), step)}, now_ms=2_000)
        highest_bytes = max(highest_bytes, budget.memtable_bytes())
    for store in stores:
        store.close()
    # A batch and the memtables in flush come on top: half as much again is room for both.
    assert highest_bytes < budget.memtable_bytes_max * 1.5
