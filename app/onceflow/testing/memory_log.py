"""The log of the topology driver: topics, records and committed offsets, in memory.

Only what is committed stands in it. Records get consecutive offsets, because no control records are
between them. It is used by the event loop and by the threads of the engine, so each operation takes
the lock. It models no broker: nothing here fails, is fenced, or comes late.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from onceflow.ids import Partition
from onceflow.kafka.admin import TopicDescription
from onceflow.kafka.offsets import Committed
from onceflow.kafka.partitioner import partition_for
from onceflow.kafka.records import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onceflow.kafka.records import Headers


class Record(NamedTuple):
    """A committed record.

    Fields:
        key, value: as bytes; None is no key, and a tombstone.
        timestamp: seconds since 1970 UTC.
        headers: names and values; empty when there are none.
        partition: number of the partition.
        offset: in the partition.
    """

    key: bytes | None
    value: bytes | None
    timestamp: float
    headers: list[tuple[str, bytes | None]]
    partition: int
    offset: int


class Entry(NamedTuple):
    """A record on its way into the log; a partition of None is chosen by the key."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    timestamp_ms: int | None = None
    headers: Headers | None = None


class MemoryLog:
    """Topics and the offsets of one group.

    Attributes:
        on_change: called after records were added, on whichever thread added them.
    """

    def __init__(self) -> None:
        self.on_change: Callable[[], None] = _ignore
        self._lock = threading.Lock()
        self._topics: dict[str, TopicDescription] = {}
        self._configs: dict[str, dict[str, str]] = {}
        self._records: dict[Partition, list[Record]] = {}
        self._offsets: dict[Partition, Committed] = {}
        self._keyless = 0

    def create(self, name: str, count: int, config: Mapping[str, str]) -> TopicDescription:
        """Make a topic; one that exists stays as it is."""
        with self._lock:
            if name not in self._topics:
                self._topics[name] = TopicDescription(name, f"id-{name}", count, 1)
                self._configs[name] = dict(config)
                self._records.update({Partition(name, number): [] for number in range(count)})
            return self._topics[name]

    def topic(self, name: str) -> TopicDescription | None:
        """Describe a topic; None if there is none."""
        return self._topics.get(name)

    def all_partitions(self) -> frozenset[Partition]:
        """Return every partition of every topic."""
        return frozenset(self._records)

    def config(self, name: str) -> dict[str, str]:
        """Return the settings with which a topic was made."""
        return self._configs[name]

    def partitions(self, topic: str) -> list[Partition]:
        """Return the partitions of a topic; none if it does not exist."""
        description = self._topics.get(topic)
        count = 0 if description is None else description.partition_count
        return [Partition(topic, number) for number in range(count)]

    def add(
        self, entries: Iterable[Entry], offsets: Mapping[Partition, Committed]
    ) -> list[tuple[int, int]]:
        """Add records and offsets at once; returns partition number and offset of each record."""
        with self._lock:
            places = [self._place(entry) for entry in entries]
            self._offsets.update(offsets)
        self.on_change()
        return places

    def _place(self, entry: Entry) -> tuple[int, int]:
        count = self._topics[entry.topic].partition_count
        number = entry.partition
        if number is None:
            number = partition_for(entry.key, count)
        if number is None:
            number = self._keyless % count
            self._keyless += 1
        records = self._records[Partition(entry.topic, number)]
        timestamp_ms = entry.timestamp_ms
        if timestamp_ms is None:
            timestamp_ms = int(time.time() * 1000)  # noqa: TID251 - what a broker would stamp
        offset = len(records)
        records.append(
            Record(
                entry.key,
                entry.value,
                timestamp_ms / 1000,
                list(entry.headers or []),
                number,
                offset,
            )
        )
        return number, offset

    def records(self, topic: str) -> list[Record]:
        """Return the records of a topic, partition by partition."""
        return [record for each in self.partitions(topic) for record in self._records[each]]

    def end(self, partition: Partition) -> int:
        """Return the offset that the next record gets."""
        return len(self._records[partition])

    def read(self, partition: Partition, offset: int, records_max: int, fetch: int) -> Run | None:
        """Return the records from an offset on as a run, or None if there are none."""
        records = self._records[partition][offset : offset + records_max]
        if not records:
            return None
        headers: list[Headers | None] = [record.headers or None for record in records]
        return Run(
            partition,
            [record.offset for record in records],
            [record.key for record in records],
            [record.value for record in records],
            [round(record.timestamp * 1000) for record in records],
            headers if any(headers) else None,
            sum(len(record.key or b"") + len(record.value or b"") for record in records),
            fetch,
        )

    def committed(self, partition: Partition) -> Committed:
        """Return the committed offset and marker of a partition."""
        return self._offsets.get(partition, Committed(None, ""))


def _ignore() -> None:
    """Have nobody to tell: nothing reads yet."""
