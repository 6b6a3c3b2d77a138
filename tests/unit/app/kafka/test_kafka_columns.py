"""Messages become runs of columns, by partition and in order."""

from __future__ import annotations

from confluent_kafka import KafkaError, Message

from onceflow.ids import Partition
from onceflow.kafka.columns import run_of, runs_of, split


def message(topic, number, offset, **parts):
    return Message(topic=topic, partition=number, offset=offset, timestamp=(1, offset), **parts)


def test_interleaved_partitions_and_topics_come_apart_in_order():
    places = [("a", 0), ("a", 0), ("a", 1), ("b", 1), ("b", 1), ("a", 0), ("a", 1), ("b", 1)]
    batch = split([message(t, n, i, value=b"v") for i, (t, n) in enumerate(places)])
    assert batch.errors == []
    assert {p: [m.offset() for m in group] for p, group in batch.groups.items()} == {
        Partition("a", 0): [0, 1, 5],
        Partition("a", 1): [2, 6],
        Partition("b", 1): [3, 4, 7],
    }


def test_one_partition_is_one_group_and_nothing_is_none():
    assert split([]).groups == {}
    batch = split([message("a", 3, i) for i in range(4)])
    assert list(batch.groups) == [Partition("a", 3)]
    assert len(batch.groups[Partition("a", 3)]) == 4


def test_errors_are_taken_out():
    failed = message("a", 0, 1, error=KafkaError(KafkaError._PARTITION_EOF))
    batch = split([message("a", 0, 0), failed, message("a", 0, 1)])
    assert batch.errors == [failed]
    assert [m.offset() for m in batch.groups[Partition("a", 0)]] == [0, 1]


def test_columns_hold_every_field():
    partition = Partition("a", 0)
    run = run_of(
        partition,
        [
            message("a", 0, 5, key=b"k", value=b"vvv"),
            message("a", 0, 9, key=None, value=None),
        ],
        fetch=3,
    )
    assert (run.topic, run.number, run.partition, run.fetch) == ("a", 0, partition, 3)
    assert run.offsets == [5, 9]
    assert run.keys == [b"k", None]
    assert run.values == [b"vvv", None]
    assert run.timestamps == [5, 9]
    assert run.headers is None
    assert run.size_bytes == 4
    assert len(run) == 2
    assert "a[0] 5..9" in repr(run)


def test_one_record_with_headers_makes_the_column():
    with_headers = message("a", 0, 1, headers=[("h", b"1")])
    run = run_of(Partition("a", 0), [message("a", 0, 0), with_headers], fetch=0)
    assert run.headers == [None, [("h", b"1")]]


def test_a_long_group_is_cut_into_runs():
    messages = [message("a", 0, i) for i in range(7)]
    runs = runs_of(Partition("a", 0), messages, 1, 3)
    assert [run.offsets for run in runs] == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(run) for run in runs_of(Partition("a", 0), messages, 1, 7)] == [7]
