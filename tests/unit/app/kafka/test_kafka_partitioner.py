"""Keys land where Java's producer puts them."""

from __future__ import annotations

import pytest

from onceflow.kafka.partitioner import partition_for

# murmur2 of Kafka's own UtilsTest (apache/kafka, clients/src/test/java/org/apache/kafka/common/
# utils/UtilsTest.java), as signed 32-bit values.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 1_000])
@pytest.mark.parametrize("key", JAVA)
def test_a_key_takes_javas_hash_without_its_sign_modulo_the_partitions(key, count):
    assert partition_for(key, count) == (JAVA[key] & 0x7FFFFFFF) % count


def test_no_key_means_any_partition():
    assert partition_for(None, 8) is None


def test_an_empty_key_is_a_key():
    assert partition_for(b"", 1_000) == 681
