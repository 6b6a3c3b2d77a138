"""Reading a changelog to the high watermark: control records, open transactions, compaction."""

from __future__ import annotations

import asyncio
import time

import pytest

from harness.topics import fill
from onceflow.errors import DataAtRisk, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin
from onceflow.kafka.changelog import LOG_END, LOG_START, ChangelogReader, LogStartJump
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.producer import CallThread, TransactionalProducer

pytestmark = pytest.mark.kafka


@pytest.fixture
def config(kafka):
    return ClientConfig(kafka.bootstrap)


@pytest.fixture
async def admin(config):
    client = Admin(config)
    yield client
    client.close()


@pytest.fixture
async def writer(config, unique):
    thread = CallThread()
    producer = TransactionalProducer(config, unique("txn"))
    await thread.run(producer.init, 30.0, timeout_s=40)

    class Writer:
        open = staticmethod(producer.begin)

        @staticmethod
        async def write(topic, values, key=None, partition=0):
            producer.produce_many(topic, partition, [key] * len(values), values)
            await thread.run(producer.flush, 10.0, timeout_s=20)

        @staticmethod
        async def commit():
            assert (await thread.run(producer.commit_transaction, 10.0, timeout_s=20)).error is None

        @staticmethod
        async def abort():
            assert (await thread.run(producer.abort_transaction, 10.0, timeout_s=20)).error is None

    yield Writer
    await thread.run(producer.destroy, timeout_s=20)
    thread.stop()


async def drain(reader, timeout_s=20.0, max_records=1_000):
    runs = []
    deadline = time.monotonic() + timeout_s
    while reader.remaining():
        assert time.monotonic() < deadline, f"{reader.remaining()} offsets remain"
        runs += await asyncio.to_thread(reader.poll, max_records, 0.1)
    return runs


async def opened(config, positions):
    return await asyncio.to_thread(ChangelogReader, config, positions)


def values(runs):
    return [value for run in runs for value in run.values]


async def test_control_records_at_the_end_do_not_hide_that_it_has_caught_up(
    config, admin, writer, unique
):
    topic = unique("log")
    await admin.create_topic(topic, 1)
    partition = Partition(topic, 0)
    for turn in range(3):
        writer.open()
        await writer.write(topic, [b"%d" % turn] * 10)
        await writer.commit()
    writer.open()
    await writer.write(topic, [b"aborted"] * 7)
    await writer.abort()
    reader = await opened(config, {partition: LOG_START})
    runs = await drain(reader)
    assert values(runs) == [b"0"] * 10 + [b"1"] * 10 + [b"2"] * 10
    # 30 records and 3 commit markers, 7 aborted ones and their marker.
    assert reader.high_watermarks[partition] == 41
    assert reader.position(partition) == 41
    assert reader.has_caught_up(partition)
    reader.close()


async def test_an_open_transaction_holds_the_restore_back_until_it_ends(
    config, admin, writer, unique
):
    topic = unique("log")
    await admin.create_topic(topic, 1)
    writer.open()
    await writer.write(topic, [b"first"])
    await writer.commit()
    writer.open()
    await writer.write(topic, [b"second"])
    reader = await opened(config, {Partition(topic, 0): LOG_START})
    seen = []
    for _ in range(10):
        seen += values(await asyncio.to_thread(reader.poll, 100, 0.1))
    assert seen == [b"first"]
    assert reader.remaining() == 1
    await writer.commit()
    assert values(await drain(reader)) == [b"second"]
    reader.close()


async def test_empty_partitions_have_caught_up_at_once(config, admin, unique):
    topic = unique("log")
    await admin.create_topic(topic, 3)
    reader = await opened(config, {Partition(topic, n): LOG_START for n in range(3)})
    assert reader.remaining() == 0
    reader.close()


async def test_a_reader_of_nothing_is_done(config):
    reader = await opened(config, {})
    assert reader.remaining() == 0
    assert reader.poll(10, 0.01) == []
    reader.close()


async def test_a_start_in_the_middle_reads_only_the_difference(kafka, config, admin, unique):
    topic = unique("log")
    await admin.create_topic(topic, 2)
    await fill(kafka.bootstrap, topic, 2_000, 2)
    positions = {Partition(topic, 0): 990, Partition(topic, 1): 1_000}
    reader = await opened(config, positions)
    runs = await drain(reader)
    assert [offset for run in runs for offset in run.offsets] == list(range(990, 1_000))
    reader.close()


async def test_a_start_below_the_log_is_reported_and_one_beyond_it_refused(
    kafka, config, admin, unique
):
    topic = unique("log")
    await admin.create_topic(topic, 1)
    partition = Partition(topic, 0)
    await fill(kafka.bootstrap, topic, 100, 1)
    await admin.delete_records({partition: 40})
    reader = await opened(config, {partition: 10})
    assert reader.jumps == [LogStartJump(partition, 10, 40)]
    assert len(values(await drain(reader))) == 60
    reader.close()
    with pytest.raises(DataAtRisk, match="deleted and made again"):
        await opened(config, {partition: 101})


async def test_a_log_without_records_ends_where_it_was_cut(kafka, config, admin, unique):
    topic = unique("log")
    await admin.create_topic(topic, 1)
    partition = Partition(topic, 0)
    await fill(kafka.bootstrap, topic, 50, 1)
    await admin.delete_records({partition: 50})
    reader = await opened(config, {partition: LOG_START})
    assert reader.remaining() == 0
    assert reader.position(partition) == 50
    reader.close()


@pytest.mark.slow
async def test_a_compacted_log_is_read_over_its_gaps(kafka, config, admin, writer, unique):
    topic = unique("log")
    await admin.create_topic(
        topic,
        1,
        config={
            "cleanup.policy": "compact",
            "segment.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "max.compaction.lag.ms": "100",
        },
    )
    partition = Partition(topic, 0)
    for turn in range(4):
        writer.open()
        await writer.write(topic, [b"%d" % (turn * 50 + i) for i in range(50)], key=b"same")
        await writer.commit()
        await asyncio.sleep(0.3)
    deadline = time.monotonic() + 40
    while True:
        reader = await opened(config, {partition: LOG_START})
        seen = values(await drain(reader))
        assert reader.position(partition) == reader.high_watermarks[partition]
        reader.close()
        assert seen[-1] == b"199"
        if len(seen) < 200:
            break
        assert time.monotonic() < deadline, "the log was not compacted"
        await asyncio.sleep(1)


async def test_a_tail_starts_at_the_end_and_goes_on(kafka, config, admin, unique):
    topic = unique("log")
    await admin.create_topic(topic, 1)
    await fill(kafka.bootstrap, topic, 100, 1)
    reader = await opened(config, {Partition(topic, 0): LOG_END})
    assert reader.remaining() == 0
    await fill(kafka.bootstrap, topic, 5, 1, start=500)
    seen = []
    deadline = time.monotonic() + 20
    while len(seen) < 5 and time.monotonic() < deadline:
        seen += values(await asyncio.to_thread(reader.poll, 100, 0.1))
    assert seen == [b"0:%d" % i for i in range(500, 505)]
    reader.close()


async def test_without_brokers_it_ends_within_its_bound():
    started = time.monotonic()
    with pytest.raises(Unreachable):
        await asyncio.to_thread(
            ChangelogReader, ClientConfig("127.0.0.1:1"), {Partition("t", 0): 0}, timeout_s=1.0
        )
    assert time.monotonic() - started < 8
