"""The client alone: consume, and produce each value again, in a transaction every 100 ms.

    python bare_program.py BROKER IN OUT GROUP

Nothing is decoded and nothing is kept, so no engine on this client can be faster at one output per
record. Runs until it is ended.
"""

from __future__ import annotations

import sys
import time

from confluent_kafka import Consumer, Producer

INTERVAL_S = 0.1
POLL_RECORDS = 10_000
INIT_S = 30.0


def main(broker, source, output, group):
    """Copy one topic to another, exactly once."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "queued.min.messages": 200_000,
            "queued.max.messages.kbytes": 65_536,
            # By default a full queue stops a partition's fetches for a whole second.
            "fetch.queue.backoff.ms": 5,
        }
    )
    producer = Producer(
        {
            "bootstrap.servers": broker,
            "transactional.id": group,
            "linger.ms": 5,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )
    producer.init_transactions(INIT_S)
    consumer.subscribe([source])
    producer.begin_transaction()
    begun_s, copied = time.monotonic(), 0
    while True:
        messages = consumer.consume(POLL_RECORDS, INTERVAL_S)
        if messages:
            producer.produce_batch(
                output, [{"key": each.key(), "value": each.value()} for each in messages]
            )
            copied += len(messages)
        if copied and time.monotonic() - begun_s > INTERVAL_S:
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata()
            )
            producer.commit_transaction()
            producer.begin_transaction()
            begun_s, copied = time.monotonic(), 0


if __name__ == "__main__":
    main(*sys.argv[1:])
