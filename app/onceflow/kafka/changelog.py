"""Reads given partitions from given positions to the high watermark, and on.

Decides when a restore has caught up: when the *position* of every partition has reached the high
watermark that a read_uncommitted client saw at the start. Not the last stable offset, which an
open transaction holds back, and not a last record, since control records and compaction leave none
at the end. End-of-partition events give the position past what has no record.

Used on a worker thread for changelogs, and to tail topics (GlobalTables, replies).
"""

from __future__ import annotations

import concurrent.futures
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from onceflow import limits
from onceflow.errors import DataAtRisk, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.columns import runs_of, split
from onceflow.kafka.configuration import Hooks, reader_config
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import classify, kind_of
from onceflow.kafka.queries import EARLIEST, LATEST, admin_client, list_offsets

if TYPE_CHECKING:
    from collections.abc import Mapping

    from confluent_kafka import Message

    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.records import Run

LOG_START = -1
"""Start position: the log start offset."""

LOG_END = -2
"""Start position: the high watermark; only what comes later is read."""


class LogStartJump(NamedTuple):
    """A start position that the log has no more; reading began at the log start offset instead.

    In a compacted topic without deletion that is harmless; elsewhere records are missing.
    """

    partition: Partition
    wanted: int
    log_start: int


class ChangelogReader:
    """A read_committed reader of fixed partitions. Blocks; one thread at a time.

    Args:
        config: shared settings.
        positions: where to start each partition: an offset, ``LOG_START`` or ``LOG_END``.
        timeout_s: bound on asking for the high watermarks.

    Attributes:
        high_watermarks: as a read_uncommitted client saw them at the start.
        jumps: start positions that were below the log start.

    Raises:
        DataAtRisk: a position is beyond the high watermark: the topic is not the one it is from.
        Unreachable: the brokers did not answer in time.
    """

    def __init__(
        self,
        config: ClientConfig,
        positions: Mapping[Partition, int],
        *,
        timeout_s: float = limits.ADMIN_S_MAX,
    ) -> None:
        self.high_watermarks: dict[Partition, int] = {}
        self.jumps: list[LogStartJump] = []
        self._position: dict[Partition, int] = {}
        self._connection = Connection()
        low = self._watermarks(config, positions, timeout_s)
        for partition, wanted in positions.items():
            self._position[partition] = self._start(partition, wanted, low[partition])
        self._assigned_again = 0
        try:
            self._consumer = Consumer(reader_config(config, hooks=Hooks(on_error=self._connection)))
            self._assign()
        except KafkaException as error:
            raise classify(error.args[0], "changelog reader") from error

    def _assign(self) -> None:
        self._consumer.assign(
            [TopicPartition(p.topic, p.number, o) for p, o in self._position.items()]
        )

    def _watermarks(
        self, config: ClientConfig, positions: Mapping[Partition, int], timeout_s: float
    ) -> dict[Partition, int]:
        """Take the high watermarks; returns the log start offsets."""
        try:
            admin = admin_client(config, self._connection)
            low = list_offsets(admin, dict.fromkeys(positions, EARLIEST), timeout_s)
            self.high_watermarks = list_offsets(admin, dict.fromkeys(positions, LATEST), timeout_s)
        except KafkaException as error:
            raised: KafkaError = error.args[0]
            if kind_of(raised) is Unreachable:
                raise self._connection.silence("changelog watermarks", timeout_s) from error
            raise classify(raised, "changelog watermarks") from error
        except concurrent.futures.TimeoutError as error:
            raise self._connection.silence("changelog watermarks", timeout_s) from error
        return low

    def _start(self, partition: Partition, wanted: int, low: int) -> int:
        high = self.high_watermarks[partition]
        if wanted == LOG_END:
            return high
        if wanted == LOG_START:
            return low
        if wanted > high:
            raise DataAtRisk(
                f"{partition.topic}[{partition.number}] ends at {high}, but {wanted} was read from"
                " it before: it was deleted and made again, or lost records. What was restored"
                " from it cannot be trusted; rebuild it"
            )
        if wanted < low:
            self.jumps.append(LogStartJump(partition, wanted, low))
            return low
        return wanted

    def poll(self, max_records: int, timeout_s: float) -> list[Run]:
        """Read up to ``max_records``; empty if nothing came within ``timeout_s``.

        Raises:
            DataAtRisk: the log lost what is still to be read.
            Unreachable, ConfigError: as the message says.
        """
        try:
            messages = self._consumer.consume(max_records, 0.0)
            if not messages:
                messages = self._consumer.consume(1, timeout_s)
        except KafkaException as error:
            raise classify(error.args[0], "read changelog") from error
        if not messages:
            return []
        batch = split(messages)
        runs: list[Run] = []
        for partition, group in batch.groups.items():
            runs += runs_of(partition, group, 0, limits.RUN_RECORDS_MAX)
            self._position[partition] = runs[-1].offsets[-1] + 1
        for message in batch.errors:
            self._event(message)
        return runs

    def _event(self, message: Message) -> None:
        error = message.error()
        if error is None:
            return
        partition = Partition(message.topic() or "", message.partition() or 0)
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - librdkafka's own code
            reached = message.offset() or 0
            self._position[partition] = max(self._position[partition], reached)
            return
        if self._is_mistaken(error, partition, message.offset()):
            self._assigned_again += 1
            self._assign()
            return
        raise classify(error, f"read {partition.topic}[{partition.number}]")

    def _is_mistaken(self, error: KafkaError, partition: Partition, offset: int | None) -> bool:
        """Whether a lost position is one that nobody asked for.

        After a broken connection librdkafka 2.16 may forget where a partition was assigned to start
        and complain of a missing committed offset.
        """
        return (
            error.code() == KafkaError._AUTO_OFFSET_RESET  # noqa: SLF001
            and offset != self._position[partition]
            and self._assigned_again < limits.SEEKS_AGAIN_MAX
        )

    def position(self, partition: Partition) -> int:
        """Next offset to read, control records included."""
        return self._position[partition]

    def remaining(self) -> int:
        """Offsets between the positions and the high watermarks; 0 means caught up."""
        return sum(
            max(0, high - self._position[partition])
            for partition, high in self.high_watermarks.items()
        )

    def has_caught_up(self, partition: Partition) -> bool:
        """Whether the partition's position has reached its high watermark."""
        return self._position[partition] >= self.high_watermarks[partition]

    def close(self) -> None:
        """End the reader."""
        self._consumer.close()
