"""Fills topics for tests with a plain producer of the client library."""

from __future__ import annotations

import asyncio

from confluent_kafka import Producer


async def fill(bootstrap, topic, records, partitions, *, start=0, padding=0, rows=None):
    """Produce ``records`` evenly; values are ``partition:sequence``, counted from ``start``."""
    await asyncio.to_thread(_fill, bootstrap, topic, records, partitions, start, padding, rows)


def _fill(bootstrap, topic, records, partitions, start, padding, rows):
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "linger.ms": 5,
            "queue.buffering.max.messages": 1_000_000,
        }
    )
    if rows is not None:
        for row in rows:
            producer.produce(topic, partition=0, **row)
    else:
        for number in range(partitions):
            for i in range(start, start + records // partitions):
                value = b"%d:%d" % (number, i)
                producer.produce(topic, value + b"." * padding, b"k%d" % i, number)
            producer.poll(0)
    assert producer.flush(60) == 0
