"""The fault proxy in front of the real Kafka, and the hole in transactions that it shows."""

from __future__ import annotations

import time

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from harness.kafka_wire import Api
from harness.proxy import Fault, KafkaProxy

pytestmark = [pytest.mark.kafka]
pytest_plugins = ["harness.kafka"]


@pytest.fixture
def proxy(kafka):
    with KafkaProxy(kafka.bootstrap) as running:
        yield running


@pytest.fixture
def topic(kafka, unique):
    name = unique("proxied")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result(30)
    return name


@pytest.fixture
def producer(proxy, unique):
    """A transactional producer, initialised, all of whose connections go through the proxy."""
    made = Producer(
        {
            "bootstrap.servers": proxy.bootstrap,
            "transactional.id": unique("tx"),
            "transaction.timeout.ms": 20_000,
            "linger.ms": 0,
            "log_level": 0,
        }
    )
    made.init_transactions(30)
    return made


def send(producer, topic, value):
    producer.produce(topic, value, partition=0)
    assert producer.flush(30) == 0


def read_committed(kafka, topic):
    """The values that a read_committed reader sees, up to the last stable offset."""
    reader = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": "unused",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    values = []
    try:
        reader.assign([TopicPartition(topic, 0, 0)])
        while True:
            message = reader.poll(30)
            assert message is not None
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF
                return values
            values.append(message.value())
    finally:
        reader.close()


def await_committed(kafka, topic, values):
    """Wait until exactly these are committed: markers are written after EndTxn is answered."""
    deadline_s = time.monotonic() + 10
    while (seen := read_committed(kafka, topic)) != values:
        assert time.monotonic() < deadline_s, seen
        time.sleep(0.1)


def test_clients_stay_on_the_proxy_whatever_they_connect_to(proxy, kafka, producer, topic, unique):
    producer.begin_transaction()
    send(producer, topic, b"a")
    producer.commit_transaction(30)
    reader = Consumer(
        {
            "bootstrap.servers": proxy.bootstrap,
            "group.id": unique("group"),
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    reader.subscribe([topic])
    message = reader.poll(30)
    reader.close()
    assert message.value() == b"a"
    for api in (Api.PRODUCE, Api.FETCH, Api.END_TXN, Api.JOIN_GROUP, Api.FIND_COORDINATOR):
        assert proxy.counts[api] > 0, api
    assert proxy.passed == proxy.counts
    admin = AdminClient({"bootstrap.servers": proxy.bootstrap})
    cluster = admin.describe_cluster().result(30)
    proxied = {f"{node.host}:{node.port}" for node in cluster.nodes}
    assert proxied == set(proxy.bootstrap.split(","))
    assert proxied.isdisjoint(kafka.bootstrap.split(","))


def test_a_late_duplicate_end_commits_the_open_next_transaction(proxy, kafka, producer, topic):
    """The hole: with the first transaction protocol an EndTxn does not say which transaction."""
    late = proxy.rule(Api.END_TXN, Fault.DUPLICATE_LATE)
    producer.begin_transaction()
    send(producer, topic, b"first")
    producer.commit_transaction(30)
    late.wait_hit()
    assert late.hit[0].is_commit
    await_committed(kafka, topic, [b"first"])
    producer.begin_transaction()
    send(producer, topic, b"second, not committed by anybody")
    assert read_committed(kafka, topic) == [b"first"]
    late.release()
    assert late.wait_answer() == 0
    await_committed(kafka, topic, [b"first", b"second, not committed by anybody"])
    with pytest.raises(KafkaException) as caught:
        producer.abort_transaction(10)
    assert caught.value.args[0].code() == KafkaError.INVALID_TXN_STATE
    assert read_committed(kafka, topic)[1:] == [b"second, not committed by anybody"]


def test_an_immediate_duplicate_end_does_no_harm(proxy, kafka, producer, topic):
    double = proxy.rule(Api.END_TXN, Fault.DUPLICATE)
    for value in (b"a", b"b"):
        producer.begin_transaction()
        send(producer, topic, value)
        producer.commit_transaction(30)
    double.wait_answer()
    await_committed(kafka, topic, [b"a", b"b"])
    assert proxy.passed[Api.END_TXN] == proxy.counts[Api.END_TXN] + 1


def test_a_held_end_blocks_the_commit_until_it_is_released(proxy, kafka, producer, topic):
    held = proxy.rule(Api.END_TXN, Fault.HOLD_REQUEST)
    producer.begin_transaction()
    send(producer, topic, b"a")
    with pytest.raises(KafkaException) as caught:
        producer.commit_transaction(1)
    assert caught.value.args[0].retriable()
    assert held.hits == 1
    assert read_committed(kafka, topic) == []
    held.release()
    producer.commit_transaction(30)
    await_committed(kafka, topic, [b"a"])


def test_a_dropped_answer_leaves_a_commit_that_happened(proxy, kafka, producer, topic):
    dropped = proxy.rule(Api.END_TXN, Fault.DROP_RESPONSE)
    producer.begin_transaction()
    send(producer, topic, b"a")
    with pytest.raises(KafkaException):
        producer.commit_transaction(1)
    assert dropped.wait_answer() == 0
    await_committed(kafka, topic, [b"a"])


def test_a_connection_cut_after_the_commit_makes_the_client_send_it_again(
    proxy, kafka, producer, topic
):
    cut = proxy.rule(Api.END_TXN, Fault.CUT_AFTER)
    producer.begin_transaction()
    send(producer, topic, b"a")
    producer.commit_transaction(30)
    assert cut.hits == 1
    assert proxy.counts[Api.END_TXN] == 2
    await_committed(kafka, topic, [b"a"])


def test_a_delay_is_felt_and_other_connections_are_not_delayed(proxy, kafka, producer, topic):
    delayed = proxy.rule(Api.ADD_PARTITIONS_TO_TXN, Fault.DELAY_REQUEST, delay_s=1.0)
    producer.begin_transaction()
    begun_s = time.monotonic()
    producer.produce(topic, b"a", partition=0)
    delayed.wait_hit()
    AdminClient({"bootstrap.servers": proxy.bootstrap}).list_topics(topic, timeout=10)
    assert time.monotonic() - begun_s < 1.0
    producer.flush(30)
    assert time.monotonic() - begun_s >= 1.0
    producer.commit_transaction(30)


def test_a_rule_meets_whom_it_names_after_those_it_skips(proxy, producer, topic, unique):
    stranger = proxy.rule(Api.END_TXN, Fault.COUNT, transactional_id="another-*", times=100)
    chosen = proxy.rule(Api.END_TXN, Fault.COUNT, transactional_id="tx-*", skip=1, times=1)
    aborts = proxy.rule(Api.END_TXN, Fault.COUNT, where=lambda r: not r.is_commit, times=100)
    for number in range(3):
        producer.begin_transaction()
        send(producer, topic, str(number).encode())
        producer.commit_transaction(30)
    producer.begin_transaction()
    send(producer, topic, b"x")
    producer.abort_transaction(30)
    assert (stranger.hits, chosen.hits, aborts.hits) == (0, 1, 1)
    assert proxy.counts[Api.END_TXN] == 4


def test_what_is_held_goes_to_the_broker_also_when_its_client_is_gone(proxy, kafka, topic, unique):
    held = proxy.rule(Api.END_TXN, Fault.HOLD_REQUEST)
    producer = Producer(
        {
            "bootstrap.servers": proxy.bootstrap,
            "transactional.id": unique("tx"),
            "log_level": 0,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    send(producer, topic, b"a")
    with pytest.raises(KafkaException):
        producer.commit_transaction(1)
    del producer
    proxy.cut()
    assert read_committed(kafka, topic) == []
    held.release()
    assert held.wait_answer() == 0
    await_committed(kafka, topic, [b"a"])


def test_a_blocked_proxy_passes_nothing_on_until_it_is_unblocked(proxy, kafka, producer, topic):
    producer.begin_transaction()
    send(producer, topic, b"a")
    proxy.block()
    with pytest.raises(KafkaException):
        producer.commit_transaction(1)
    assert read_committed(kafka, topic) == []
    proxy.unblock()
    producer.commit_transaction(30)
    await_committed(kafka, topic, [b"a"])


def test_a_cut_is_survived_by_clients(proxy, kafka, producer, topic):
    for value in (b"a", b"b"):
        producer.begin_transaction()
        send(producer, topic, value)
        producer.commit_transaction(30)
        proxy.cut()
    await_committed(kafka, topic, [b"a", b"b"])
