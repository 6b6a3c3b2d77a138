"""A replica of a GlobalTable whose reader and own epochs bring the same records."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.task_stores import BUDGET_BYTES, TRUSTED_FOR_MS
from onceflow.engine.replica import Replica
from onceflow.ids import Partition
from onceflow.kafka.records import Run
from onceflow.state.memory import MemoryBudget
from onceflow.state.overlay import Changes
from onceflow.state.restore import KeyLayout
from onceflow.state.task_store import StoreIdentity, TaskStore


@pytest.fixture
def replica(tmp_path):
    identity = StoreIdentity("app", "cluster", {"0": "id"})
    store = TaskStore.open(
        tmp_path / "global",
        identity,
        ["0"],
        MemoryBudget(BUDGET_BYTES),
        now_ms=1_000,
        trusted_for_ms=TRUSTED_FOR_MS,
    )
    yield Replica(SimpleNamespace(partition_count=1, layout=KeyLayout.PLAIN), store)
    store.close()


def test_an_epoch_that_is_fed_between_two_pieces_of_a_run_is_not_written_again(replica):
    large = b"x" * 600_000
    keys = [b"a", b"b", b"c"]
    run = Run(Partition("log", 0), [0, 1, 2], keys, [large] * 3, [0] * 3, None, 0, 0)
    pieces = replica.load(run, 1_000)
    assert next(pieces) == 1
    replica.feed(0, 0, Changes([(b"b", b"new"), (b"c", large)], (), 3), 1_000)
    assert list(pieces) == []
    assert replica.position(0) == 3
    assert replica.get(b"b", ()) == b"new"
