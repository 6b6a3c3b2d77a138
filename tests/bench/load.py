"""The input: 40-byte JSON ``{"k", "v", "ts"}``, seeded, 10,000 events per second of event time.

The record's key is ``k`` and its timestamp ``ts``; keys are drawn at random, values are multiples
of one half, so that sums are exact in any order.
"""

from __future__ import annotations

import random

from confluent_kafka import Producer

from bench.topics import WARNINGS, make_topics

SEED = 7
START_MS = 1_700_000_000_000
EVENTS_PER_MS = 10
FLUSH_S = 60.0


def fill_events(bootstrap, topic, events, keys):
    """Create ``topic`` and write ``events`` events of ``keys`` keys."""
    make_topics(bootstrap, [topic])
    chance = random.Random(SEED)

    def event(number):
        key, at_ms = chance.randrange(keys), START_MS + number // EVENTS_PER_MS
        value = b'{"k":"%d","v":%d.5,"ts":%d}' % (key, chance.randrange(100), at_ms)
        return {"key": b"%d" % key, "value": value, "timestamp": at_ms}

    fill(bootstrap, topic, events, event)


def fill(bootstrap, topic, count, record):
    """Produce ``record(0) ... record(count - 1)``, which are keyword arguments of ``produce``."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "log_level": WARNINGS,
            "partitioner": "murmur2_random",
            "enable.idempotence": True,
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    for number in range(count):
        fields = record(number)
        while True:
            try:
                producer.produce(topic, **fields)
                break
            except BufferError:
                producer.poll(0.1)
        if number % 5_000 == 0:
            producer.poll(0)
    left = producer.flush(FLUSH_S)
    if left:
        raise TimeoutError(f"{left} records were not written to {topic} within {FLUSH_S} s")
