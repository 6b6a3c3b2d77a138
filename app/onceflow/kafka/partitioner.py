"""Where a key lands: exactly where Java's producer puts it.

Java's default partitioner and librdkafka's ``murmur2_random`` take murmur2 of the key, clear the
sign bit and take the remainder by the number of partitions (Kafka's ``BuiltInPartitioner`` and
``Utils.toPositive``). A record without a key may go anywhere, so the producer chooses.
"""

from __future__ import annotations

from confluent_kafka import murmur2


def partition_for(key: bytes | None, partition_count: int) -> int | None:
    """Partition number of ``key`` among ``partition_count``; None for no key (any partition).

    An empty key is a key: Java hashes it like any other. librdkafka's ``murmur2_random`` does so
    too and draws a random partition only for a key that is absent.
    """
    if key is None:
        return None
    return murmur2(key, partition_count)
