"""Topics of a run: made, read whole as a committed reader sees them, and removed again."""

from __future__ import annotations

import time
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

PARTITIONS = 4
WARNINGS = 4
"""librdkafka's level of what is printed; it tells of each client that ends with a word to say."""

LED_S = 30.0
READ_S = 300.0
"""Bound on reading one topic whole; four million records take ten seconds."""


def make_topics(bootstrap, names):
    """Create topics that keep what they are given, however old its timestamps are."""
    config = {"retention.ms": "-1"}
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": WARNINGS})
    wanted = [NewTopic(name, PARTITIONS, 1, config=config) for name in names]
    for future in admin.create_topics(wanted).values():
        future.result()
    _wait_led(admin, names)


def _wait_led(admin, names):
    """Wait until every partition has a leader: a topic exists a moment before it has."""
    wanted = {
        TopicPartition(name, number): OffsetSpec.latest()
        for name in names
        for number in range(PARTITIONS)
    }
    deadline = time.monotonic() + LED_S
    while True:
        outcomes = admin.list_offsets(wanted, request_timeout=5).values()
        errors = [error for future in outcomes if (error := future.exception()) is not None]
        if not errors:
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"{', '.join(names)}: no leaders within {LED_S} s: {errors[0]}")
        time.sleep(0.05)


def drop_topics(bootstrap, prefix):
    """Remove every topic of a run, so that the next one finds the same disk and page cache."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": WARNINGS})
    names = [name for name in admin.list_topics(timeout=10).topics if name.startswith(prefix)]
    if names:
        for future in admin.delete_topics(names).values():
            future.result()


def partitions_of(client, topic):
    """The partitions of a topic, without offsets."""
    known = client.list_topics(topic, timeout=10).topics[topic]
    return [TopicPartition(topic, number) for number in sorted(known.partitions)]


def ends_of(client, partitions):
    """High watermarks by partition number (of a read_uncommitted client, else stable offsets)."""
    return {
        each.partition: client.get_watermark_offsets(each, timeout=10)[1] for each in partitions
    }


def read_columns(bootstrap, topic, *, chunk=100_000):
    """Yield keys and values of a whole topic in lists, each partition in order."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"bench-reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "queued.min.messages": 200_000,
            "fetch.queue.backoff.ms": 5,
        }
    )
    try:
        partitions = partitions_of(consumer, topic)
        left = {each.partition for each in partitions}
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in left])
        deadline = time.monotonic() + READ_S
        while left:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{topic} was not read whole within {READ_S} s")
            keys, values = [], []
            for message in consumer.consume(chunk, 0.5):
                error = message.error()
                if error is None:
                    keys.append(message.key())
                    values.append(message.value())
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise RuntimeError(f"{topic} cannot be read: {error}")
            if keys:
                yield keys, values
    finally:
        consumer.close()
