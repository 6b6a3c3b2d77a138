"""GlobalTables: the order in which reads look, and replicas that never go back."""

from __future__ import annotations

import pytest

from harness.table_driver import TableDriver, make_app
from harness.task_stores import BUDGET_BYTES, TRUSTED_FOR_MS
from onceflow.engine.replica import Replica
from onceflow.ids import Partition
from onceflow.kafka.records import Run
from onceflow.state.memory import MemoryBudget
from onceflow.state.overlay import Changes
from onceflow.state.task_store import StoreIdentity, TaskStore


@pytest.fixture
def app():
    return make_app()


def replica_of(table, directory):
    """A replica of a table in a store of its own."""
    numbers = [str(n) for n in range(table.partition_count)]
    store = TaskStore.open(
        directory / "replica",
        StoreIdentity("tables", "cluster", dict.fromkeys(numbers, "id")),
        numbers,
        MemoryBudget(BUDGET_BYTES),
        now_ms=1,
        trusted_for_ms=TRUSTED_FOR_MS,
    )
    table.replica = Replica(table, store)
    return table.replica


def follow(replica, number, offset, *rows):
    """Let the reader bring records of the changelog."""
    keys, values = [key for key, _ in rows], [value for _, value in rows]
    offsets = list(range(offset, offset + len(rows)))
    run = Run(Partition("changelog", number), offsets, keys, values, offsets, None, 0, 0)
    for _ in replica.load(run, 1):
        pass


async def test_reads_see_all_partitions_that_are_open_here_with_the_epochs_writes(app, tmp_path):
    known = app.GlobalTable("known")
    driver = TableDriver(app, tmp_path).open()
    with driver.record(0):
        known["a"] = 1
    with driver.record(1):
        assert known["a"] == 1
        known["b"] = 2
        assert sorted(known.items()) == [("a", 1), ("b", 2)]
        assert len(known) == 2
    assert known.get("a") is None
    await driver.commit()
    assert known["a"] == 1
    assert sorted(known) == ["a", "b"]


def test_other_workers_partitions_are_read_from_the_replica(app, tmp_path):
    known = app.GlobalTable("known", default=int)
    driver = TableDriver(app, tmp_path).open(0)
    replica = replica_of(known, tmp_path)
    follow(replica, 1, 0, (b'"far"', b"7"), (b'"gone"', b"8"), (b'"gone"', None))
    with driver.record(0):
        known["near"] = 1
        assert known["far"] == 7
        assert "gone" not in known
        assert known["nowhere"] == 0
        assert sorted(known.items()) == [("far", 7), ("near", 1)]
    assert known["far"] == 7
    follow(replica, 1, 3, (b'"far"', b"9"))
    assert known["far"] == 9


def test_a_lagging_replica_brings_nothing_back_of_partitions_that_are_open_here(app, tmp_path):
    known = app.GlobalTable("known")
    driver = TableDriver(app, tmp_path).open()
    replica = replica_of(known, tmp_path)
    with driver.record(0):
        known["k"] = "old"
    driver.commit_now()
    follow(replica, 0, 0, (b'"k"', b'"old"'))
    with driver.record(0):
        del known["k"]
        assert "k" not in known
    driver.commit_now()
    assert "k" not in known
    assert list(known) == []


def test_what_an_epoch_commits_is_in_the_replica_at_once(app, tmp_path):
    known = app.GlobalTable("known")
    TableDriver(app, tmp_path).open(1)
    replica = replica_of(known, tmp_path)
    follow(replica, 0, 0, (b'"k"', b"1"))
    replica.feed(0, 1, Changes([(b'"k"', b"2")], (), 3), 1)
    assert known["k"] == 2
    follow(replica, 0, 1, (b'"k"', b"99"), (b'"k"', b"2"))
    assert known["k"] == 2
    assert replica.position(0) == 3


def test_a_replica_that_is_behind_the_epoch_is_left_to_the_reader(app, tmp_path):
    known = app.GlobalTable("known")
    TableDriver(app, tmp_path).open(1)
    replica = replica_of(known, tmp_path)
    replica.feed(0, 5, Changes([(b'"k"', b"2")], (), 6), 1)
    assert replica.position(0) == 0
    assert "k" not in known


def test_remembered_rows_follow_openings_and_closings(app, tmp_path):
    known = app.GlobalTable("known")
    driver = TableDriver(app, tmp_path).open(0)
    replica = replica_of(known, tmp_path)
    follow(replica, 1, 0, (b'"k"', b"1"))
    assert known["k"] == 1
    driver.open(1)
    replica.forget_reads()
    assert "k" not in known
    driver.close(1)
    replica.forget_reads()
    assert known["k"] == 1


def test_a_key_written_from_two_partitions_is_told_once(app, tmp_path, caplog):
    known = app.GlobalTable("known")
    driver = TableDriver(app, tmp_path).open()
    for number in (0, 1, 0, 1):
        with driver.record(number):
            known["k"] = number
            known[f"only-{number}"] = number
    assert caplog.text.count("global_table_conflict") == 1
