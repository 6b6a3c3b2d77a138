"""Committed offsets when their coordinator moves, and the bound of sending them to a frozen one."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from onceflow.errors import OutcomeUnknown, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.configuration import ClientConfig
from onceflow.kafka.offsets import CommittedOffsets, Stability
from onceflow.kafka.producer import CallThread, TransactionalProducer
from onceflow.limits import SEND_OFFSETS_S_MAX

pytestmark = [pytest.mark.faults, pytest.mark.kafka, pytest.mark.timeout(240)]


class Committer:
    """Commits 1, 2, 3 … of one partition as fast as it can, on a thread; a context manager.

    Fields: ``tried`` is the highest offset sent, ``done`` the highest one that was acknowledged.
    """

    def __init__(self, bootstrap, group, partition):
        self.tried = self.done = 0
        self._partition = partition
        self._consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopping.set()
        self._thread.join()
        self._consumer.close()

    def _main(self):
        while not self._stopping.is_set():
            self.tried += 1
            place = TopicPartition(
                self._partition.topic, self._partition.number, self.tried, f"at {self.tried}"
            )
            try:
                (answer,) = self._consumer.commit(offsets=[place], asynchronous=False)
            except KafkaException:
                time.sleep(0.1)
                continue
            if answer.error is None:
                self.done = self.tried
            time.sleep(0.01)


def make_topic(kafka, name):
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    admin.create_topics([NewTopic(name, 1, len(kafka.brokers))])[name].result(30)
    return Partition(name, 0)


def coordinator_of(kafka, group):
    """Number of the broker that coordinates a group."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    described = admin.describe_consumer_groups([group], request_timeout=20)[group].result(30)
    return described.coordinator.id


class Reader:
    """Reads in turn latest and stable, and checks each answer against what was committed by then.

    Fields: ``answers`` counts them by kind.
    """

    def __init__(self, offsets, group, committer, partition):
        self.answers = dict.fromkeys(Stability, 0)
        self._offsets, self._group = offsets, group
        self._committer, self._partition = committer, partition

    def read(self, stability):
        before = self._committer.done
        try:
            found = self._offsets.read(self._group, {self._partition}, stability, 3.0)
        except Unreachable:
            return
        at = found[self._partition]
        self.answers[stability] += 1
        assert before <= (at.offset or 0) <= self._committer.tried
        assert at.metadata == (f"at {at.offset}" if at.offset else "")

    def read_until(self, reached):
        deadline = time.monotonic() + 60
        while not reached():
            told = (self.answers, self._committer.tried, self._committer.done)
            assert time.monotonic() < deadline, told
            for stability in Stability:
                self.read(stability)

    def read_on(self):
        """Until commits go on and both kinds of reading are answered again."""
        done, answers = self._committer.done + 20, {k: n + 20 for k, n in self.answers.items()}
        self.read_until(
            lambda: (
                self._committer.done >= done
                and all(self.answers[each] >= count for each, count in answers.items())
            )
        )


@pytest.mark.parametrize("end", ["kill", "stop_broker"])
def test_offsets_read_while_their_coordinator_moves_are_right_or_not_answered(
    three_brokers, unique, end
):
    group, partition = unique("group"), make_topic(three_brokers, unique("in"))
    offsets = CommittedOffsets(ClientConfig(three_brokers.bootstrap))
    with Committer(three_brokers.bootstrap, group, partition) as committer:
        reader = Reader(offsets, group, committer, partition)
        reader.read_on()
        former = coordinator_of(three_brokers, group)
        ending = threading.Thread(target=getattr(three_brokers, end), args=(former,))
        ending.start()
        reader.read_until(lambda: not ending.is_alive())
        reader.read_on()
        assert coordinator_of(three_brokers, group) != former
        three_brokers.start_broker(former)
        reader.read_on()
    offsets.close()


async def test_offsets_sent_to_a_frozen_coordinator_end_by_their_own_bound(three_brokers, unique):
    config = ClientConfig(three_brokers.bootstrap)
    group, partition = unique("group"), make_topic(three_brokers, unique("in"))
    member = Consumer({"bootstrap.servers": three_brokers.bootstrap, "group.id": group})
    metadata = member.consumer_group_metadata()
    producer = TransactionalProducer(config, unique("txn"))
    thread = CallThread()
    await thread.run(producer.init, 30.0, timeout_s=40)

    async def send(offset):
        producer.begin()
        rows = [(partition, offset, f"m{offset}")]
        await thread.run(producer.send_offsets, rows, metadata, timeout_s=SEND_OFFSETS_S_MAX)

    await send(1)
    assert (await thread.run(producer.commit_transaction, 10.0, timeout_s=20)).error is None
    coordinator = coordinator_of(three_brokers, group)
    three_brokers.pause(coordinator)
    started = time.monotonic()
    try:
        with pytest.raises(OutcomeUnknown) as raised:
            await send(2)
        assert SEND_OFFSETS_S_MAX <= time.monotonic() - started < 25
        assert raised.value.exit_code == 3
        text = str(raised.value)
        assert "TransactionalProducer.send_offsets (allowed: 15.0 s)" in text
        assert "Whether it took effect is not known. This worker must end" in text
        assert "the next incarnation fences it and reads the marker" in text
        with pytest.raises(OutcomeUnknown, match="send_offsets"):
            await thread.run(producer.commit_transaction, 10.0, timeout_s=20)
    finally:
        three_brokers.resume(coordinator)
    # Whatever became of the call: once the next incarnation has fenced it, nothing is committed.
    successor = TransactionalProducer(config, producer.transactional_id)
    await asyncio.to_thread(successor.init, 30.0)
    offsets = CommittedOffsets(config)
    found = await offsets.committed(group, [partition], timeout_s=30.0)
    assert found[partition].offset == 1
    offsets.close()
    successor.destroy()
    member.close()
    thread.stop()
