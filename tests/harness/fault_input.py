"""Seeded input at a bounded rate, and a reader that sees what the application committed."""

from __future__ import annotations

import json
import random
import threading
import time
import uuid

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Producer, TopicPartition

KEYS = 24
GROUPS = 7
STEADY = {
    # As the engine's own clients: librdkafka 2.16 may never find a restarted broker otherwise.
    "metadata.recovery.strategy": "none",
    "reconnect.backoff.max.ms": 1_000,
    "log_level": 0,
}
SPEEDUP = 20
"""Event time per second of feeding, in seconds: several windows pass by in a short test."""


class Feeder:
    """Produces ``records`` inputs at ``rate`` per second in the background.

    Args:
        special: words by input number that the application obeys (``poison``, ``stall``).
    """

    def __init__(self, bootstrap, topic, partitions, *, seed, records, rate, special=None):
        self.records = records
        self.sent = 0
        self._topic = topic
        self._partitions = partitions
        self._random = random.Random(seed)
        self._rate = rate
        self._special = special or {}
        self._start_ms = time.time_ns() // 1_000_000 - 3_600_000
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
                **STEADY,
            }
        )
        self._stopping = threading.Event()
        self._going = threading.Event()
        self._going.set()
        self._failures = []
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def start(self):
        self._thread.start()
        return self

    @property
    def done(self):
        return not self._thread.is_alive()

    def finish(self, timeout_s=60.0):
        """Wait until everything is produced and acknowledged."""
        self._thread.join(timeout_s)
        assert self.done, f"the input was not produced within {timeout_s} s ({self.sent} were)"
        assert not self._failures, self._failures

    def pause(self):
        """Send nothing until ``resume``; what was sent is acknowledged when this returns."""
        self._going.clear()
        assert self._producer.flush(30.0) == 0

    def resume(self):
        """Go on."""
        self._going.set()

    def abandon(self):
        """Stop early; for the end of a failing test."""
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self):
        begin = time.monotonic()
        for number in range(self.records):
            due = begin + number / self._rate
            while (left := due - time.monotonic()) > 0:
                if self._stopping.wait(min(left, 0.05)):
                    return
                self._producer.poll(0)
            while not self._going.wait(0.05):
                if self._stopping.is_set():
                    return
            self._send(number)
        left = self._producer.flush(100.0)
        if left:
            self._failures.append(f"{left} inputs were not acknowledged")

    def _send(self, number):
        key = self._random.randrange(KEYS)
        value = {
            "n": number,
            "k": f"k{key}",
            "g": f"g{self._random.randrange(GROUPS)}",
            "v": self._random.randrange(1_000),
        }
        if number in self._special:
            value[self._special[number]] = True
        self._producer.produce(
            self._topic,
            json.dumps(value),
            f"k{key}",
            key % self._partitions,
            on_delivery=self._delivered,
            timestamp=self._start_ms + number * 1000 * SPEEDUP // int(self._rate),
        )
        self.sent = number + 1

    def _delivered(self, error, _):
        if error is not None:
            self._failures.append(str(error))


class Watcher:
    """Follows topics as a read_committed reader and counts distinct outputs per topic.

    ``identity`` names per topic what makes two outputs the same one.
    """

    def __init__(self, bootstrap, identity, partitions):
        self._identity = identity
        self.outputs = {topic: set() for topic in identity}
        self.doubled = []
        self._consumer = reader(bootstrap)
        self._next = {
            (topic, number): OFFSET_BEGINNING for topic in identity for number in range(partitions)
        }
        self._assign()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self):
        self._thread.start()
        return self

    def count(self, topic):
        return len(self.outputs[topic])

    def stop(self):
        self._stopping.set()
        self._thread.join(15.0)

    def _assign(self):
        self._consumer.assign([TopicPartition(*place, at) for place, at in self._next.items()])

    def _run(self):
        while not self._stopping.is_set():
            is_halted = False
            for message in self._consumer.consume(500, 0.1):
                if message.error() is not None:
                    # librdkafka fetches nothing more of a partition that was refused once (the
                    # broker was fenced for a moment, say), until it is assigned again.
                    is_halted = True
                    continue
                topic = message.topic()
                self._next[topic, message.partition()] = message.offset() + 1
                identity = self._identity[topic](json.loads(message.value()))
                if identity in self.outputs[topic]:
                    self.doubled.append((topic, message.partition(), message.offset(), identity))
                self.outputs[topic].add(identity)
            if is_halted and not self._stopping.wait(0.2):
                self._assign()
        self._consumer.close()


def reader(bootstrap, isolation="read_committed", **options):
    """A consumer that assigns itself and commits nothing."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "isolation.level": isolation,
            "fetch.wait.max.ms": 20,
            **STEADY,
            **options,
        }
    )


class Record:
    """One record as read back."""

    __slots__ = ("key", "number", "offset", "timestamp_ms", "value")

    def __init__(self, message):
        self.number = message.partition()
        self.offset = message.offset()
        self.key = message.key()
        self.value = message.value()
        self.timestamp_ms = message.timestamp()[1]

    @property
    def json(self):
        return None if self.value is None else json.loads(self.value)


def read_back(bootstrap, topics, timeout_s=60.0):
    """All committed records of topics (a mapping to partition counts).

    Returns a mapping of topic to partition number to records in offset order.
    """
    consumer = reader(bootstrap, **{"enable.partition.eof": True})
    rows = {topic: {n: [] for n in range(count)} for topic, count in topics.items()}
    places = [(topic, number) for topic, numbers in rows.items() for number in numbers]
    ended = set()
    deadline = time.monotonic() + timeout_s
    try:
        consumer.assign([TopicPartition(*place, OFFSET_BEGINNING) for place in places])
        while len(ended) < len(places):
            assert time.monotonic() < deadline, f"ends not reached: {set(places) - ended}"
            for message in consumer.consume(2_000, 0.1):
                if message.error() is None:
                    rows[message.topic()][message.partition()].append(Record(message))
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    ended.add((message.topic(), message.partition()))
    finally:
        consumer.close()
    return rows


def open_transactions(bootstrap, topics, timeout_s=10.0):
    """Partitions whose last stable offset stays below their high watermark for so long."""
    deadline = time.monotonic() + timeout_s
    stable, raw = reader(bootstrap), reader(bootstrap, "read_uncommitted")
    held = {(topic, n): None for topic, count in topics.items() for n in range(count)}
    try:
        while True:
            for place in list(held):
                ends = tuple(
                    each.get_watermark_offsets(TopicPartition(*place), 10.0)[1]
                    for each in (stable, raw)
                )
                if ends[0] == ends[1]:
                    del held[place]
                else:
                    held[place] = ends
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.1)
    finally:
        stable.close()
        raw.close()
