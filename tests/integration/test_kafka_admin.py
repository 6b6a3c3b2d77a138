"""Administration of a real broker, with its bounds."""

from __future__ import annotations

import asyncio
import time

import pytest

from harness.polling import until
from harness.topics import fill
from onceflow.errors import TopologyError, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.admin import Admin, Watermarks
from onceflow.kafka.configuration import ClientConfig, Hooks, producer_config
from onceflow.kafka.offsets import CommittedOffsets
from onceflow.kafka.producer import TransactionalProducer
from onceflow.kafka.statistics import parse

pytestmark = pytest.mark.kafka


@pytest.fixture
async def admin(kafka):
    client = Admin(ClientConfig(kafka.bootstrap))
    yield client
    client.close()


async def test_a_created_topic_is_there_with_its_config_and_a_second_creation_is_fine(
    admin, unique
):
    topic = unique("topic")
    made = await admin.create_topic(topic, 3, config={"cleanup.policy": "compact"})
    assert (made.name, made.partition_count, made.replication_factor) == (topic, 3, 1)
    assert await admin.create_topic(topic, 3) == made
    described = await admin.topics([topic, unique("absent")])
    assert described == {topic: made}
    assert made.topic_id
    config = (await admin.topic_configs([topic]))[topic]
    assert config["cleanup.policy"] == "compact"


async def test_a_config_is_asked_for_again_while_a_broker_has_not_heard_of_the_topic(admin, unique):
    topic = unique("topic")
    asked = asyncio.ensure_future(admin.topic_configs([topic]))
    await asyncio.sleep(0.5)
    await admin.create_topic(topic, 1, config={"cleanup.policy": "compact"})
    assert (await asked)[topic]["cleanup.policy"] == "compact"
    with pytest.raises(Unreachable, match="do not know the topic"):
        await admin.topic_configs([unique("absent")], 0.5)


async def test_an_existing_topic_of_another_size_is_refused(admin, unique):
    topic = unique("topic")
    await admin.create_topic(topic, 2)
    with pytest.raises(TopologyError, match="exists with 2 partitions, but 5 are needed"):
        await admin.create_topic(topic, 5)


async def test_a_recreated_topic_has_another_id(admin, unique):
    topic = unique("topic")
    first = await admin.create_topic(topic, 1)
    await admin.delete_topics([topic, unique("absent")])
    second = await admin.create_topic(topic, 1)
    assert second.topic_id != first.topic_id


async def test_watermarks_times_and_deleted_records(kafka, admin, unique):
    topic = unique("topic")
    await admin.create_topic(topic, 2)
    zero, one = Partition(topic, 0), Partition(topic, 1)
    rows = [{"value": b"v", "timestamp": 1_000 * (i + 1)} for i in range(10)]
    await fill(kafka.bootstrap, topic, 0, 0, rows=rows)
    assert await admin.watermarks([zero, one]) == {zero: Watermarks(0, 10), one: Watermarks(0, 0)}
    found = await admin.offsets_for_times({zero: 4_500, one: 4_500})
    assert found == {zero: 4, one: None}
    assert await admin.delete_records({zero: 3}) == {zero: 3}
    assert await admin.earliest([zero]) == {zero: 3}
    assert await admin.end_offsets([zero]) == {zero: 10}


async def test_the_end_counts_an_open_transaction(kafka, admin, unique):
    topic = unique("topic")
    await admin.create_topic(topic, 1)
    producer = TransactionalProducer(ClientConfig(kafka.bootstrap), unique("txn"))
    await asyncio.to_thread(producer.init, 30.0)
    producer.begin()
    producer.produce(topic, b"open", None)
    await asyncio.to_thread(producer.flush, 10.0)
    assert await admin.end_offsets([Partition(topic, 0)]) == {Partition(topic, 0): 1}
    await asyncio.to_thread(producer.abort_transaction, 10.0)
    await asyncio.to_thread(producer.destroy)


async def test_the_cluster_has_an_id(admin):
    assert len(await admin.cluster_id()) > 5


async def test_an_unknown_topic_is_named_when_its_offsets_are_asked(admin, unique):
    with pytest.raises(TopologyError):
        await admin.watermarks([Partition(unique("absent"), 0)])


async def test_without_brokers_everything_ends_within_its_bound_and_says_what_to_check():
    config = ClientConfig("127.0.0.1:1")
    client, offsets = Admin(config), CommittedOffsets(config)
    started = time.monotonic()
    for call in (client.cluster_id(1.0), client.topics(["t"], 1.0)):
        with pytest.raises(Unreachable, match="brokers"):
            await call
    with pytest.raises(Unreachable, match="brokers"):
        await offsets.committed("g", [Partition("t", 0)], timeout_s=1.0)
    assert time.monotonic() - started < 12
    offsets.close()
    client.close()


async def test_statistics_of_a_producer_are_understood(kafka, unique):
    seen = []
    hooks = Hooks(on_statistics=lambda text: seen.append(parse(text)), statistics_interval_ms=100)
    producer = TransactionalProducer(ClientConfig(kafka.bootstrap), unique("txn"), hooks=hooks)
    await asyncio.to_thread(producer.init, 30.0)
    producer.begin()
    await until(
        lambda: (
            producer.poll() >= 0
            and seen
            and seen[-1].transactions.transaction_state == "InTransaction"
        )
    )
    assert seen[-1].transactions.producer_id >= 0
    assert any(broker.connected for broker in seen[-1].brokers.values())
    assert seen[-1].transport_faults >= 0
    await asyncio.to_thread(producer.destroy)
    assert "stats_cb" in producer_config(ClientConfig(kafka.bootstrap), "t", hooks=hooks)
