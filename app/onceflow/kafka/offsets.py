"""Committed offsets and their metadata, read latest or stable.

Decides how the marker of a partition is read. *Latest* shows the last committed value even while a
transaction with a newer one is open; *stable* answers only when none is open, which is what
recovery needs after fencing (exactly-once depends on it: absence is proof only after a fence).

Rules of the file:

- Offsets are asked for by consumers that never subscribe, and so never join the group. With an
  administration client librdkafka 2.16 dies of a null pointer whenever a broker answers that it is
  not the group's coordinator: ``rd_kafka_handle_OffsetFetch`` (rdkafka_request.c) then gives an
  operation to the client's consumer group, and an administration client has none.
- A consumer's isolation level decides whether it reads stable, so there is one for each.
- librdkafka repeats a stable read by itself while a transaction is open and never says so; only
  that the same coordinator answers a latest read tells it from one that does not answer.
- A consumer is closed by whoever leaves it last: closing it under a reader would crash.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from onceflow import limits
from onceflow.errors import DataAtRisk, OnceflowError, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.configuration import Hooks, offsets_config
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import classify, kind_of, unmasked

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from onceflow.kafka.configuration import ClientConfig, Isolation


class Stability(Enum):
    """How a reading treats open transactions."""

    LATEST = "latest"
    STABLE = "stable"


_ISOLATION: dict[Stability, Isolation] = {
    Stability.LATEST: "read_uncommitted",
    Stability.STABLE: "read_committed",
}


class Committed(NamedTuple):
    """Committed offset (the next record to read), or None if there is none, and its metadata."""

    offset: int | None
    metadata: str


class Pending(OnceflowError):  # noqa: N818 - named as the protocol names the state
    """A transaction with offsets of these partitions is open. Reaction: fence its owner, or wait.

    Attributes:
        partitions: those asked for; the broker does not say which of them is held back.
    """

    def __init__(self, group: str, partitions: frozenset[Partition], waited_s: float) -> None:
        super().__init__(
            f"the offsets of group {group} stay pending after {waited_s:.1f} s: a transaction with"
            " them is open, so whether it commits is not decided. Fence its owner, or wait for the"
            f" transaction timeout. Asked for: {sorted(partitions)}"
        )
        self.partitions = partitions


class CommittedOffsets:
    """Reads the committed offsets of groups, from any thread. Costs threads: close it."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._readers: dict[tuple[str, Stability], _Reader] = {}

    def close(self) -> None:
        """End the consumers; idempotent. Readings under way go on, and end theirs themselves."""
        with self._lock:
            readers = list(self._readers.items())
        for key, reader in readers:
            self._retire(key, reader)

    async def committed(
        self,
        group: str,
        partitions: Iterable[Partition],
        stable: Stability = Stability.STABLE,
        timeout_s: float = 5.0,
    ) -> dict[Partition, Committed]:
        """Committed offset and metadata of each partition.

        Raises:
            Pending: STABLE only; an open transaction held the answer back for ``timeout_s``.
            Unreachable: no coordinator answered within ``timeout_s``.
            DataAtRisk: metadata that is no text; who commits these offsets is unknown.
        """
        loop = asyncio.get_running_loop()
        wanted = frozenset(partitions)
        return await loop.run_in_executor(None, self.read, group, wanted, stable, timeout_s)

    def read(
        self,
        group: str,
        partitions: frozenset[Partition],
        stable: Stability = Stability.STABLE,
        timeout_s: float = 5.0,
    ) -> dict[Partition, Committed]:
        """As ``committed``, blocking."""
        if not partitions:
            return {}
        question = _Question(group, partitions, time.monotonic())
        end_s = question.asked_at_s + timeout_s
        if stable is Stability.LATEST:
            return self._repeat(question, stable, end_s)
        doubt_s = min(limits.PENDING_DOUBT_S, timeout_s / 2)
        try:
            return self._repeat(question, stable, end_s - doubt_s)
        except Unreachable:
            self._repeat(question, Stability.LATEST, end_s - doubt_s / 2)
        # The coordinator answers. One that came back only just now answers a fresh stable read.
        try:
            return self._repeat(question, stable, end_s)
        except Unreachable as silent:
            raise Pending(group, partitions, timeout_s) from silent

    def _repeat(
        self, question: _Question, stable: Stability, end_s: float
    ) -> dict[Partition, Committed]:
        """Ask until there is an answer; what was asked before ``end_s`` may have been lost."""
        key = (question.group, stable)
        attempt_s = limits.OFFSETS_ATTEMPT_S
        with self._lent(key) as reader:
            while (left_s := end_s - time.monotonic()) > 0:
                try:
                    return reader.ask(question.partitions, min(attempt_s, left_s))
                except KafkaException as error:
                    raised: KafkaError = error.args[0]
                    if kind_of(raised) is not Unreachable:
                        doing = f"committed offsets of {question.group}"
                        raise classify(raised, doing) from error
                # Each attempt at a pending offset goes on inside librdkafka until it is closed.
                attempt_s *= 2
                time.sleep(limits.OFFSETS_AGAIN_S)
            # This one may wait for a coordinator of yesterday; who asks next gets another.
            self._retire(key, reader)
            waited_s = round(time.monotonic() - question.asked_at_s, 1)
            raise reader.connection.silence(f"committed offsets of {question.group}", waited_s)

    @contextmanager
    def _lent(self, key: tuple[str, Stability]) -> Generator[_Reader]:
        with self._lock:
            reader = self._readers.get(key)
            if reader is None:
                reader = self._readers[key] = _Reader(self._config, *key)
            reader.users += 1
        try:
            yield reader
        finally:
            with self._lock:
                reader.users -= 1
                is_over = reader.is_retired and not reader.users
            if is_over:
                reader.close()

    def _retire(self, key: tuple[str, Stability], reader: _Reader) -> None:
        """Let nobody begin to use a reader any more, and close it when the last one left."""
        with self._lock:
            if reader.is_retired:
                return
            reader.is_retired = True
            del self._readers[key]
            is_over = not reader.users
        if is_over:
            reader.close()


class _Question(NamedTuple):
    """What is asked, and since when (monotonic)."""

    group: str
    partitions: frozenset[Partition]
    asked_at_s: float


class _Reader:
    """A consumer that never joins its group.

    Attributes:
        connection: what it said about its connections.
        users: calls inside; guarded by the owner's lock, as is the next.
        is_retired: nobody may begin to use it.
    """

    def __init__(self, config: ClientConfig, group: str, stable: Stability) -> None:
        self.connection = Connection()
        self.users = 0
        self.is_retired = False
        hooks = Hooks(on_error=self.connection)
        try:
            self._consumer = Consumer(
                offsets_config(config, group, _ISOLATION[stable], hooks=hooks)
            )
        except KafkaException as error:
            raise classify(error.args[0], f"committed offsets of {group}") from error

    def ask(self, partitions: frozenset[Partition], timeout_s: float) -> dict[Partition, Committed]:
        """Ask once; raises what librdkafka raises, and the first error of a partition."""
        rows = [TopicPartition(p.topic, p.number) for p in sorted(partitions)]
        try:
            answer = self._consumer.committed(rows, timeout=timeout_s)
        finally:
            # Serves the callbacks: what it logged, and what befell its connections.
            with unmasked():
                self._consumer.poll(0)
        found: dict[Partition, Committed] = {}
        for row in answer:
            if row.error is not None:
                raise KafkaException(row.error)
            offset = row.offset if row.offset >= 0 else None
            found[Partition(row.topic, row.partition)] = Committed(offset, _metadata_of(row))
        return found

    def close(self) -> None:
        """End its threads."""
        self._consumer.close()


def _metadata_of(row: TopicPartition) -> str:
    try:
        return row.metadata or ""
    except UnicodeDecodeError as error:
        raise DataAtRisk(
            f"the committed offset of {row.topic}[{row.partition}] carries metadata that is no"
            " text, so another program commits offsets of this group and resuming could lose or"
            " double records. Stop it, then reset the group knowingly"
        ) from error
