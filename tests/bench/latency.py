"""End-to-end latency: from the time an event was meant to be sent to a read_committed reader.

Events go out at a fixed rate whatever the contestant does, and each counts from its intended time,
so a contestant that stalls is charged for all that waited meanwhile. A result ``k@w -> {"n": n}``
makes the first ``n`` events of that key and window visible; a key's events lie in one partition in
the order sent. Only the second half of the run counts, when everybody is warm.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict

import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from bench.places import RunFailed
from bench.topics import PARTITIONS
from bench.verify import WINDOW_MS

RATE = 10_000
KEYS = 1_000
READY_S = 60.0
DRAIN_S = 10.0
SENDER = {
    "linger.ms": 2,
    "partitioner": "murmur2_random",
    "queue.buffering.max.messages": 1_000_000,
}


class Latency:
    """One measurement of one running contestant."""

    def __init__(self, job, seconds):
        self._job = job
        self._events = round(RATE * seconds)
        self._seconds = seconds
        self._sent = defaultdict(list)
        self._seen = defaultdict(int)
        self._lock = threading.Lock()
        self._start_s = 0.0
        self._late_ms = 0.0

    def measure(self):
        """Send and read; returns quantiles in milliseconds and how many events were never seen."""
        reader = self._reader()
        try:
            self._wait_ready(reader)
            self._start_s = time.time() + 0.5  # noqa: TID251 - record timestamps are wall clock
            sender = threading.Thread(target=self._send, daemon=True)
            sender.start()
            latencies_ms, seen = self._read(reader)
            sender.join()
        finally:
            reader.close()
        latencies_ms.sort()
        return {
            "rate": RATE,
            "events": self._events,
            "unseen": self._events - seen,
            "sender_late_ms": round(self._late_ms, 1),
            **{f"p{q}_ms": _quantile(latencies_ms, q / 100) for q in (50, 90, 99)},
            "max_ms": _quantile(latencies_ms, 1.0),
        }

    def _reader(self):
        reader = Consumer(
            {
                "bootstrap.servers": self._job.bootstrap,
                "group.id": f"{self._job.group}-reader",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": 5,
            }
        )
        reader.assign([TopicPartition(self._job.output, number, 0) for number in range(PARTITIONS)])
        return reader

    def _wait_ready(self, reader):
        """Send one event to each partition until a result of each was seen."""
        producer = Producer({"bootstrap.servers": self._job.bootstrap, **SENDER})
        waiting = {b"ready-%d" % number for number in range(PARTITIONS)}
        for number, key in enumerate(sorted(waiting)):
            event = b'{"k":"%s","v":0.5,"ts":0}' % key
            producer.produce(self._job.source, event, key=key, partition=number, timestamp=1)
        producer.flush(READY_S)
        deadline = time.monotonic() + READY_S
        while waiting:
            if time.monotonic() > deadline:
                raise RunFailed(f"no result within {READY_S} s")
            for message in reader.consume(100, 0.1):
                if message.error() is None:
                    waiting.discard(message.key().split(b"@")[0])

    def _send(self):
        producer = Producer({"bootstrap.servers": self._job.bootstrap, **SENDER})
        chance = random.Random(3)
        for number in range(self._events):
            due_s = self._start_s + number / RATE
            ahead_s = due_s - time.time()  # noqa: TID251
            if ahead_s > 0.001:
                producer.poll(0)
                time.sleep(ahead_s)
            self._late_ms = max(self._late_ms, -ahead_s * 1000)
            key, at_ms = chance.randrange(KEYS), int(due_s * 1000)
            with self._lock:
                self._sent[b"%d@%d" % (key, at_ms // WINDOW_MS * WINDOW_MS)].append(due_s)
            event = b'{"k":"%d","v":1.5,"ts":%d}' % (key, at_ms)
            producer.produce(self._job.source, event, key=b"%d" % key, timestamp=at_ms)
        producer.flush(DRAIN_S)

    def _read(self, reader):
        warm_s = self._start_s + self._seconds / 2
        end_s = self._start_s + self._seconds + DRAIN_S
        latencies_ms, seen = [], 0
        while seen < self._events and time.time() < end_s:  # noqa: TID251
            for message in reader.consume(1_000, 0.01):
                if message.error() is not None or message.key().startswith(b"ready"):
                    continue
                at_s = time.time()  # noqa: TID251
                visible = self._became_visible(message.key(), orjson.loads(message.value())["n"])
                seen += len(visible)
                latencies_ms += [(at_s - due_s) * 1000 for due_s in visible if due_s > warm_s]
        return latencies_ms, seen

    def _became_visible(self, key, count):
        """Intended times of the events that a result shows for the first time."""
        before = self._seen[key]
        if count <= before:
            return []
        self._seen[key] = count
        with self._lock:
            return self._sent[key][before:count]


def _quantile(ordered, share):
    if not ordered:
        return None
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)
