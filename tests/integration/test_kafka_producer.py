"""The transactional producer on a real broker: visibility, fencing, ends of unknown outcome."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from harness.polling import Recorder, until
from harness.reading import read_all
from onceflow.errors import (
    Fenced,
    InvariantViolation,
    OutcomeUnknown,
    SerializationError,
    TopologyError,
    TransactionAborted,
    Unreachable,
)
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin
from onceflow.kafka.configuration import ClientConfig, GroupProtocol
from onceflow.kafka.offsets import Committed, CommittedOffsets, Pending, Stability
from onceflow.kafka.partitioner import partition_for
from onceflow.kafka.producer import (
    CallThread,
    EndOutcome,
    PlainProducer,
    ProducerFull,
    TransactionalProducer,
    fence,
)

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
async def blocking():
    thread = CallThread()
    yield thread
    thread.stop()


@pytest.fixture
def offsets(config):
    reader = CommittedOffsets(config)
    yield reader
    reader.close()


@pytest.fixture
async def make(config, blocking, unique):
    made = []

    async def producer(transactional_id=None, timeout_ms=30_000, options=None):
        used = ClientConfig(config.bootstrap_servers, options or {})
        one = TransactionalProducer(used, transactional_id or unique("txn"), timeout_ms)
        made.append(one)
        await blocking.run(one.init, 30.0, timeout_s=40)
        return one

    yield producer
    for one in made:
        await blocking.run(one.destroy, timeout_s=20)


async def test_an_epoch_becomes_visible_with_its_commit_and_an_aborted_one_never(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make()
    producer.begin()
    producer.produce(topic, b"a", b"k")
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    assert await read_all(kafka.bootstrap, topic) == []
    assert await read_all(kafka.bootstrap, topic, isolation="read_uncommitted") == [b"a"]
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert (end.outcome, end.spent, end.error) == (EndOutcome.COMMITTED, False, None)
    assert await read_all(kafka.bootstrap, topic) == [b"a"]
    producer.begin()
    producer.produce(topic, b"b", b"k")
    end = await blocking.run(producer.abort_transaction, 10.0, timeout_s=20)
    assert (end.outcome, end.spent) == (EndOutcome.ABORTED, False)
    producer.begin()
    assert producer.produce_many(topic, 0, [b"k"] * 3, [b"c", b"d", b"e"]) == 3
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.COMMITTED
    assert await read_all(kafka.bootstrap, topic) == [b"a", b"c", b"d", b"e"]


async def test_aborts_right_after_a_first_produce_leave_the_producer_usable(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 4)
    producer = await make()
    for turn in range(20):
        producer.begin()
        producer.produce_many(topic, turn % 4, [b"k"] * 50, [b"x"] * 50)
        end = await blocking.run(producer.abort_transaction, 10.0, timeout_s=20)
        assert (end.outcome, end.spent) == (EndOutcome.ABORTED, False), end
    producer.begin()
    end = await blocking.run(producer.abort_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.ABORTED
    producer.begin()
    producer.produce(topic, b"kept", None, 0)
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.COMMITTED
    assert await read_all(kafka.bootstrap, topic, 4) == [b"kept"]


async def test_fencing_ends_the_rights_and_the_transaction_of_the_former_owner(
    kafka, config, admin, make, blocking, unique
):
    topic, name = unique("out"), unique("txn")
    await admin.create_topic(topic, 1)
    zombie = await make(name)
    zombie.begin()
    zombie.produce(topic, b"zombie", None)
    await blocking.run(zombie.flush, 10.0, timeout_s=20)
    await blocking.run(fence, config, name, 20.0, timeout_s=30)
    end = await blocking.run(zombie.commit_transaction, 10.0, timeout_s=20)
    assert (end.outcome, end.spent) == (EndOutcome.FENCED, True)
    assert isinstance(end.error, Fenced)
    with pytest.raises((Fenced, OutcomeUnknown)):
        zombie.produce(topic, b"again", None)
    assert await read_all(kafka.bootstrap, topic) == []


async def test_offsets_and_marker_commit_with_the_epoch_and_hold_stable_reads_back(
    kafka, admin, make, blocking, offsets, unique
):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 2)
    both = [Partition(topic, 0), Partition(topic, 1)]
    async with Recorder(kafka.bootstrap, group) as member:
        await member.thread.subscribe([topic])
        await until(lambda: member.of("assigned"))
        metadata = member.of("assigned")[0].group_metadata
        producer = await make()
        producer.begin()
        rows = [(both[0], 0, "m1"), (both[1], 0, "m1")]
        await blocking.run(producer.send_offsets, rows, metadata, timeout_s=20)
        assert (await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)).error is None
        assert await offsets.committed(group, both) == {p: Committed(0, "m1") for p in both}
        producer.begin()
        rows = [(both[0], 7, "m2"), (both[1], 0, "m2")]
        await blocking.run(producer.send_offsets, rows, metadata, timeout_s=20)
        latest = await offsets.committed(group, both, Stability.LATEST)
        assert latest == {p: Committed(0, "m1") for p in both}
        with pytest.raises(Pending) as pending:
            await offsets.committed(group, both, Stability.STABLE, 1.0)
        assert pending.value.partitions == frozenset(both)
        waiting = asyncio.ensure_future(offsets.committed(group, both, Stability.STABLE, 20.0))
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
        assert await waiting == {both[0]: Committed(7, "m2"), both[1]: Committed(0, "m2")}


async def test_partitions_without_a_commit_have_no_offset(admin, offsets, unique):
    topic = unique("in")
    await admin.create_topic(topic, 1)
    partition = Partition(topic, 0)
    found = await offsets.committed(unique("group"), [partition])
    assert found == {partition: Committed(None, "")}


@pytest.mark.parametrize("protocol", [GroupProtocol.CLASSIC, GroupProtocol.CONSUMER])
async def test_metadata_of_a_former_assignment_is_refused_for_what_moved(
    kafka, admin, make, blocking, unique, protocol
):
    topic, group = unique("in"), unique("group")
    await admin.create_topic(topic, 2)
    producer = await make()
    async with Recorder(kafka.bootstrap, group, protocol=protocol) as first:
        await first.thread.subscribe([topic])
        await until(lambda: first.of("assigned"))
        stale = first.of("assigned")[0].group_metadata
        async with Recorder(kafka.bootstrap, group, protocol=protocol) as second:
            await second.thread.subscribe([topic])
            await until(lambda: second.thread.assignment and second.thread.assignment.partitions)
            (moved,) = second.thread.assignment.partitions
            producer.begin()
            with pytest.raises(TransactionAborted):
                await blocking.run(
                    producer.send_offsets, [(moved, 3, "stale")], stale, timeout_s=20
                )
            end = await blocking.run(producer.abort_transaction, 10.0, timeout_s=20)
            assert end.outcome is EndOutcome.ABORTED
            await until(lambda: first.thread.assignment and first.thread.assignment.number == 2)
            fresh = first.thread.assignment
            producer.begin()
            rows = [(partition, 1, "mine") for partition in fresh.partitions]
            await blocking.run(producer.send_offsets, rows, fresh.group_metadata, timeout_s=20)
            end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
            assert end.outcome is EndOutcome.COMMITTED


async def test_a_slow_commit_succeeds_and_spends_the_producer(kafka, admin, make, blocking, unique):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make()
    producer.begin()
    producer.produce(topic, b"a", None)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    kafka.pause()
    threading.Timer(1.5, kafka.resume).start()
    end = await blocking.run(producer.commit_transaction, 20.0, timeout_s=30)
    assert (end.outcome, end.spent) == (EndOutcome.COMMITTED, True)
    assert end.elapsed_s > 1.0
    assert await read_all(kafka.bootstrap, topic) == [b"a"]


async def test_a_lost_connection_spends_the_producer_even_if_the_commit_is_quick(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make()
    producer.begin()
    producer.produce(topic, b"a", None)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    kafka.kill()
    await asyncio.to_thread(kafka.start_broker)
    await asyncio.to_thread(kafka.wait_ready)
    end = await blocking.run(producer.commit_transaction, 40.0, timeout_s=50)
    assert (end.outcome, end.spent) == (EndOutcome.COMMITTED, True)
    assert producer._connection.count > 0
    assert await read_all(kafka.bootstrap, topic) == [b"a"]


async def test_a_commit_without_answer_is_unknown_and_spent_and_a_fence_settles_it(
    kafka, config, admin, make, blocking, unique
):
    topic, name = unique("out"), unique("txn")
    await admin.create_topic(topic, 1)
    producer = await make(name)
    producer.begin()
    producer.produce(topic, b"a", None)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    kafka.pause()
    try:
        end = await blocking.run(producer.commit_transaction, 0.5, timeout_s=30)
        assert (end.outcome, end.spent) == (EndOutcome.UNKNOWN, True)
        assert end.error is not None
        started = time.monotonic()
        await blocking.run(producer.destroy, timeout_s=20)
        assert time.monotonic() - started < 5
    finally:
        kafka.resume()
    await blocking.run(fence, config, name, 30.0, timeout_s=40)
    # The request lay in the broker's socket, so it was carried out; without the fence nobody knew.
    assert await read_all(kafka.bootstrap, topic) in ([b"a"], [])
    successor = await make(name)
    successor.begin()
    successor.produce(topic, b"b", None)
    assert (await blocking.run(successor.commit_transaction, 10.0, timeout_s=20)).error is None
    assert (await read_all(kafka.bootstrap, topic))[-1] == b"b"


async def test_a_transaction_that_outlives_its_timeout_does_not_commit(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make(timeout_ms=1_000)
    producer.begin()
    producer.produce(topic, b"late", None)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    outcome = None
    # The broker looks for expired transactions every ten seconds by default.
    await asyncio.sleep(12)
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    outcome = end.outcome
    assert outcome in (EndOutcome.FENCED, EndOutcome.UNKNOWN, EndOutcome.ABORTABLE), end
    assert end.error is not None
    assert await read_all(kafka.bootstrap, topic) == []


async def test_a_full_queue_takes_a_batch_in_parts_and_loses_nothing(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make(options={"queue.buffering.max.messages": "500"})
    values = [b"%d" % i for i in range(5_000)]
    producer.begin()
    done = refused = 0
    while done < len(values):
        added = producer.produce_many(topic, 0, [None] * (len(values) - done), values[done:])
        done += added
        refused += added == 0
        producer.poll(0.01)
    assert refused or done == 5_000
    producer.produce_many(topic, 0, [None] * 600, [b"extra"] * 600)
    with pytest.raises(ProducerFull):
        producer.produce(topic, b"extra", None, 0)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.COMMITTED
    seen = [value for value in await read_all(kafka.bootstrap, topic) if value != b"extra"]
    assert seen == values


async def test_keys_land_where_the_partitioner_says_also_in_batches(
    kafka, admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 7)
    producer = await make()
    producer.begin()
    keys = [b"key-%d" % i for i in range(200)] + [b""]
    assert producer.produce_many(topic, None, keys, keys) == len(keys)
    for key in keys:
        producer.produce(topic, key, key)
    await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    async with Recorder(kafka.bootstrap, unique("group")) as reader:
        await reader.thread.subscribe([topic])
        await until(lambda: reader.delivered == 2 * len(keys))
    for partition, rows in reader.records.items():
        for _, key in rows:
            assert partition_for(key, 7) == partition.number, key


async def test_a_record_too_large_is_blamed_and_the_rest_commits(admin, make, blocking, unique):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make()
    producer.begin()
    with pytest.raises(SerializationError):
        producer.produce(topic, b"x" * 2_000_000, None)
    producer.produce(topic, b"ok", None)
    with pytest.raises(SerializationError):
        producer.produce_many(topic, 0, [None, None], [b"fine", b"x" * 2_000_000])
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.COMMITTED


async def test_a_refused_timestamp_makes_the_epoch_abortable_and_names_the_record(
    admin, make, blocking, unique
):
    topic = unique("out")
    await admin.create_topic(topic, 1, config={"message.timestamp.after.max.ms": "3600000"})
    producer = await make()
    producer.begin()
    producer.produce(topic, b"far", None, timestamp_ms=time.time_ns() // 1_000_000 + 7_200_000)
    end = await blocking.run(producer.commit_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.ABORTABLE
    assert isinstance(end.error, SerializationError)
    end = await blocking.run(producer.abort_transaction, 10.0, timeout_s=20)
    assert end.outcome is EndOutcome.ABORTED


async def test_an_unknown_partition_is_a_topology_error(admin, make, blocking, unique):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = await make()
    producer.begin()
    producer.produce(topic, b"a", None, 0)
    await blocking.run(producer.flush, 10.0, timeout_s=20)
    with pytest.raises(TopologyError):
        producer.produce(topic, b"b", None, 9)


async def test_invariants_of_offsets_are_checked_before_anything_is_sent(make, unique):
    producer = await make()
    partition = Partition(unique("in"), 0)
    producer.begin()
    with pytest.raises(InvariantViolation, match="without offsets"):
        producer.send_offsets([], None)
    with pytest.raises(InvariantViolation, match="negative"):
        producer.send_offsets([(partition, -1, "m")], None)
    with pytest.raises(InvariantViolation, match="marker fits"):
        producer.send_offsets([(partition, 0, "m" * 257)], None)


async def test_a_destroyed_producer_refuses_everything(make, blocking):
    producer = await make()
    await blocking.run(producer.destroy, timeout_s=20)
    await blocking.run(producer.destroy, timeout_s=20)
    with pytest.raises(InvariantViolation, match="spent"):
        producer.begin()


async def test_fencing_without_a_broker_ends_within_its_bound():
    thread = CallThread()
    started = time.monotonic()
    with pytest.raises(Unreachable, match="advertised"):
        await thread.run(fence, ClientConfig("127.0.0.1:1"), "any", 1.5, timeout_s=20)
    assert time.monotonic() - started < 6
    thread.stop()


async def test_a_plain_producer_completes_futures_on_the_loop(kafka, config, admin, unique):
    topic = unique("out")
    await admin.create_topic(topic, 1)
    producer = PlainProducer(config, asyncio.get_running_loop())
    futures = [producer.send(topic, b"%d" % i, None, headers=[("h", b"1")]) for i in range(500)]
    deliveries = await asyncio.wait_for(asyncio.gather(*futures), 20)
    assert [d.offset for d in deliveries] == list(range(500))
    assert deliveries[0].topic == topic
    assert abs(deliveries[0].timestamp_ms - time.time_ns() // 1_000_000) < 60_000
    with pytest.raises(TopologyError):
        await asyncio.wait_for(producer.send(topic, b"x", None, 99), 20)
    await producer.stop()
    assert len(await read_all(kafka.bootstrap, topic)) == 500
