"""Committed offsets on a real broker: open transactions, silence, and many threads."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from onceflow.errors import Unreachable
from onceflow.ids import Partition
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.offsets import Committed, CommittedOffsets, Pending, Stability

pytestmark = pytest.mark.kafka


class Group:
    """A group whose offsets of one partition are committed by transactions."""

    def __init__(self, bootstrap, name):
        self.name = name
        self.partition = Partition(f"{name}-in", 0)
        self.wanted = frozenset({self.partition})
        admin = AdminClient({"bootstrap.servers": bootstrap})
        topic = self.partition.topic
        admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(30)
        self._member = Consumer({"bootstrap.servers": bootstrap, "group.id": name})
        self._producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": name})
        self._producer.init_transactions(30)

    def send(self, offset):
        self._producer.begin_transaction()
        place = TopicPartition(self.partition.topic, 0, offset, f"at {offset}")
        metadata = self._member.consumer_group_metadata()
        self._producer.send_offsets_to_transaction([place], metadata)

    def commit(self):
        self._producer.commit_transaction(30)

    def abort(self):
        self._producer.abort_transaction(30)

    def expected(self, offset):
        return {self.partition: Committed(offset, f"at {offset}")}

    def close(self):
        self._member.close()


@pytest.fixture
def group(kafka, unique):
    made = Group(kafka.bootstrap, unique("group"))
    yield made
    made.close()


@pytest.fixture
def offsets(kafka):
    reader = CommittedOffsets(ClientConfig(kafka.bootstrap))
    yield reader
    reader.close()


def test_a_reader_is_no_member_of_the_group_it_reads(kafka, group, offsets):
    group.send(3)
    group.commit()
    assert offsets.read(group.name, group.wanted) == group.expected(3)
    assert offsets.read(group.name, group.wanted, Stability.LATEST) == group.expected(3)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    described = admin.describe_consumer_groups([group.name])[group.name].result(30)
    assert described.members == []


def test_a_stable_reading_takes_the_offset_as_soon_as_the_transaction_has_ended(group, offsets):
    group.send(1)
    group.commit()
    for end, found in ((group.abort, 1), (group.commit, 2)):
        group.send(2)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(offsets.read, group.name, group.wanted, timeout_s=20.0)
            time.sleep(0.5)
            assert not waiting.done()
            end()
            ended_s = time.monotonic()
            assert waiting.result(20) == group.expected(found)
            assert time.monotonic() - ended_s < 2


def test_pending_is_told_within_the_bound_and_reading_goes_on_afterwards(group, offsets):
    group.send(1)
    for _ in range(2):
        started_s = time.monotonic()
        with pytest.raises(Pending, match=r"stay pending after 2\.0 s") as pending:
            offsets.read(group.name, group.wanted, timeout_s=2.0)
        assert 1.9 < time.monotonic() - started_s < 4
        assert pending.value.partitions == group.wanted
    empty = {group.partition: Committed(None, "")}
    assert offsets.read(group.name, group.wanted, Stability.LATEST) == empty
    group.commit()
    assert offsets.read(group.name, group.wanted) == group.expected(1)


def test_a_frozen_broker_is_unreachable_and_not_pending(kafka, group, offsets):
    group.send(1)
    assert offsets.read(group.name, group.wanted, Stability.LATEST)
    kafka.pause()
    try:
        for stability in Stability:
            started_s = time.monotonic()
            with pytest.raises(Unreachable, match="no answer within"):
                offsets.read(group.name, group.wanted, stability, 2.0)
            assert time.monotonic() - started_s < 5
    finally:
        kafka.resume()
    group.commit()
    assert offsets.read(group.name, group.wanted, timeout_s=20.0) == group.expected(1)


def test_many_threads_read_while_others_give_up_and_while_it_is_closed(group, offsets):
    """A consumer that one thread gives up is in use by others, and must live until they leave."""
    group.send(1)
    stopping = threading.Event()

    def read(number):
        found = []
        while not stopping.is_set():
            stability = list(Stability)[number % 2]
            try:
                found.append(offsets.read(group.name, group.wanted, stability, 0.2 + number / 20))
            except (Pending, Unreachable):
                continue
        return found

    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(read, number) for number in range(8)]
        time.sleep(1.5)
        group.commit()
        for _ in range(20):
            offsets.close()
            time.sleep(0.02)
        stopping.set()
        seen = [each for reader in readers for each in reader.result(30)]
    allowed = [{group.partition: Committed(None, "")}, group.expected(1)]
    assert seen
    assert all(each in allowed for each in seen)
