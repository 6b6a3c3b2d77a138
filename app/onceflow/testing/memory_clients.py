"""Clients over the log in memory, in the places of those of the Kafka room.

Each has what the engine calls of the client it stands for, and nothing else. They never fail, so
they say nothing about failures of brokers. Must not import confluent_kafka.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

from onceflow.engine.clients import Makers
from onceflow.errors import TopologyError
from onceflow.kafka.admin import TopicDescription, Watermarks
from onceflow.kafka.changelog import LOG_END, LOG_START
from onceflow.kafka.offsets import Committed
from onceflow.kafka.plain import Delivery
from onceflow.kafka.producer import EndOutcome, EndResult
from onceflow.testing.memory_log import Entry

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from onceflow.ids import Partition
    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.records import Headers, Run
    from onceflow.testing.memory_log import MemoryLog

_COMMITTED = EndResult(EndOutcome.COMMITTED, spent=False, elapsed_s=0.0)
_ABORTED = EndResult(EndOutcome.ABORTED, spent=False, elapsed_s=0.0)
_READ_WAIT_S = 0.01


def makers(log: MemoryLog) -> Makers:
    """Return what makes clients of ``log``; they have no class in common with Kafka's."""

    def admin(config: ClientConfig) -> Any:
        del config
        return MemoryAdmin(log)

    def plain(config: ClientConfig, loop: asyncio.AbstractEventLoop) -> Any:
        del config
        return MemoryProducer(log, loop)

    def transactional(config: ClientConfig, transactional_id: str, timeout_ms: int) -> Any:
        del config, transactional_id, timeout_ms
        return MemoryTransactions(log)

    def offsets(config: ClientConfig) -> Any:
        del config
        return MemoryOffsets(log)

    def reader(config: ClientConfig, positions: Mapping[Partition, int]) -> Any:
        del config
        return MemoryReader(log, positions)

    return Makers(admin, plain, transactional, offsets, reader)


class MemoryAdmin:
    """Topics and ends of the log."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def cluster_id(self) -> str:
        """Return the name of the only cluster there is."""
        return "memory"

    async def topics(self, names: Iterable[str]) -> dict[str, TopicDescription]:
        """Describe topics; those that do not exist are left out."""
        found = {name: self._log.topic(name) for name in names}
        return {name: topic for name, topic in found.items() if topic is not None}

    async def partitions(self) -> frozenset[Partition]:
        """Return every partition of every topic."""
        return self._log.all_partitions()

    async def topic_configs(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """Return the settings of existing topics."""
        return {name: self._log.config(name) for name in names}

    async def create_topic(
        self,
        name: str,
        partition_count: int,
        *,
        replication_factor: int = -1,
        config: Mapping[str, str] | None = None,
    ) -> TopicDescription:
        """Make a topic.

        Raises:
            TopologyError: it exists with another number of partitions.
        """
        del replication_factor
        topic = self._log.create(name, partition_count, config or {})
        if topic.partition_count != partition_count:
            raise TopologyError(
                f"Topic {name} exists with {topic.partition_count} partitions, but "
                f"{partition_count} are needed. Nothing was changed. On Kafka the worker would not "
                "start either: give both the same number, or use another topic."
            )
        return topic

    async def watermarks(self, partitions: Iterable[Partition]) -> dict[Partition, Watermarks]:
        """Return start and end of each partition."""
        return {each: Watermarks(0, self._log.end(each)) for each in partitions}

    async def end_offsets(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the end of each partition."""
        return {each: self._log.end(each) for each in partitions}

    async def delete_records(self, before: Mapping[Partition, int]) -> dict[Partition, int]:
        """Keep the records: a test reads them, and they are few."""
        return dict.fromkeys(before, 0)

    def close(self) -> None:
        """Have nothing to end."""


class MemoryOffsets:
    """Committed offsets; none is ever pending."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    async def committed(
        self, group: str, partitions: Iterable[Partition], *_how: object
    ) -> dict[Partition, Committed]:
        """Return the committed offset and marker of each partition."""
        del group
        return {each: self._log.committed(each) for each in partitions}

    def close(self) -> None:
        """Have nothing to end."""


class _Placed(NamedTuple):
    """What a delivery report tells."""

    place: tuple[int, int]

    def partition(self) -> int:
        return self.place[0]

    def offset(self) -> int:
        return self.place[1]


class MemoryTransactions:
    """A transactional producer: its records enter the log together, when it commits."""

    queued = 0

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._entries: list[Entry] = []
        self._reports: dict[int, Callable[[object, _Placed], None]] = {}
        self._offsets: dict[Partition, Committed] = {}

    def begin(self) -> None:
        """Begin with nothing."""
        self._entries, self._reports, self._offsets = [], {}, {}

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        on_delivery: Callable[[object, _Placed], None] | None = None,
    ) -> None:
        """Add a record."""
        if on_delivery is not None:
            self._reports[len(self._entries)] = on_delivery
        self._entries.append(Entry(topic, key, value, partition, timestamp_ms, headers))

    def produce_many(
        self,
        topic: str,
        partition: int | None,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> int:
        """Add many records; returns their number, for all are taken."""
        for key, value in zip(keys, values, strict=True):
            self._entries.append(Entry(topic, key, value, partition))
        return len(keys)

    def poll(self) -> int:
        """Serve nothing: reports are made by the commit."""
        return 0

    def init(self, timeout_s: float) -> None:
        """Have nobody to fence."""

    def flush(self, timeout_s: float) -> None:
        """Have nothing to wait for."""

    def send_offsets(
        self, offsets: Sequence[tuple[Partition, int, str]], group_metadata: object
    ) -> None:
        """Put offsets into the transaction."""
        del group_metadata
        for partition, offset, metadata in offsets:
            self._offsets[partition] = Committed(offset, metadata)

    def commit_transaction(self, timeout_s: float) -> EndResult:
        """Put records and offsets into the log, then report where the records are."""
        del timeout_s
        places = self._log.add(self._entries, self._offsets)
        for index, report in self._reports.items():
            report(None, _Placed(places[index]))
        self.begin()
        return _COMMITTED

    def abort_transaction(self, timeout_s: float) -> EndResult:
        """Drop records and offsets."""
        del timeout_s
        self.begin()
        return _ABORTED

    def destroy(self) -> None:
        """Drop what is open."""
        self.begin()


class MemoryProducer:
    """A producer without transactions: what it sends is in the log at once."""

    def __init__(self, log: MemoryLog, loop: asyncio.AbstractEventLoop) -> None:
        self._log = log
        self._loop = loop

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[Delivery]:
        """Send one record."""
        entry = Entry(topic, key, value, partition, timestamp_ms, headers)
        [(number, offset)] = self._log.add([entry], {})
        future: asyncio.Future[Delivery] = self._loop.create_future()
        future.set_result(Delivery(topic, number, offset, timestamp_ms or 0))
        return future

    async def flush(self, timeout_s: float) -> None:
        """Have nothing to wait for."""

    async def stop(self) -> None:
        """Have nothing to end."""


class MemoryReader:
    """Reads partitions from given positions on; used on a thread of the engine.

    Attributes:
        high_watermarks: ends of the partitions when it was made.
    """

    def __init__(self, log: MemoryLog, positions: Mapping[Partition, int]) -> None:
        self._log = log
        self.high_watermarks = {each: log.end(each) for each in positions}
        starts = {LOG_START: dict.fromkeys(positions, 0), LOG_END: self.high_watermarks}
        self._position = {
            each: starts[wanted][each] if wanted in starts else wanted
            for each, wanted in positions.items()
        }

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        """Read some records; waits a moment if there are none."""
        runs: list[Run] = []
        for partition, position in self._position.items():
            run = self._log.read(partition, position, max_records, 0)
            if run is not None:
                runs.append(run)
                self._position[partition] = position + len(run)
        if not runs:
            time.sleep(min(timeout_s, _READ_WAIT_S))
        return runs

    def position(self, partition: Partition) -> int:
        """Return the next offset to read."""
        return self._position[partition]

    def remaining(self) -> int:
        """Return how much is left up to the high watermarks."""
        return sum(max(0, end - self._position[p]) for p, end in self.high_watermarks.items())

    def has_caught_up(self, partition: Partition) -> bool:
        """Return whether a partition was read up to its high watermark."""
        return self._position[partition] >= self.high_watermarks[partition]

    def close(self) -> None:
        """Have nothing to end."""
