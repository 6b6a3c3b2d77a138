"""Reads whole topics for tests, as a committed or an uncommitted reader sees them."""

from __future__ import annotations

import asyncio
import time
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition


async def read_all(bootstrap, topic, partitions=1, *, isolation="read_committed", timeout_s=20.0):
    """Values of a topic in order of (partition, offset), up to its present end for this reader."""
    return await asyncio.to_thread(_read_all, bootstrap, topic, partitions, isolation, timeout_s)


def _read_all(bootstrap, topic, partitions, isolation, timeout_s):
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": uuid.uuid4().hex,
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "enable.partition.eof": True,
        }
    )
    consumer.assign([TopicPartition(topic, n, OFFSET_BEGINNING) for n in range(partitions)])
    ended, rows = set(), []
    deadline = time.monotonic() + timeout_s
    while len(ended) < partitions:
        assert time.monotonic() < deadline, "the topic's end was not reached"
        for message in consumer.consume(1_000, 0.1):
            if message.error() is None:
                rows.append((message.partition(), message.offset(), message.value()))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                ended.add(message.partition())
    consumer.close()
    return [value for _, _, value in sorted(rows)]
