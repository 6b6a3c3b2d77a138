"""Committed offsets and their metadata, read latest or stable.

Decides how the marker of a partition is read. *Latest* shows the last committed value even while a
transaction with a newer one is open; *stable* answers only when none is open, which is what
recovery needs after fencing (exactly-once depends on it: absence is proof only after a fence).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, cast

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from onceflow.errors import OnceflowError, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import classify, kind_of
from onceflow.kafka.queries import admin_client

if TYPE_CHECKING:
    from collections.abc import Iterable

    from onceflow.kafka.configuration import ClientConfig


class Stability(Enum):
    """How a reading treats open transactions."""

    LATEST = "latest"
    STABLE = "stable"


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
    """Reads the committed offsets of groups."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._connection = Connection()
        self._client = admin_client(config, self._connection)

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
        started = time.monotonic()
        pending = False
        while (left_s := timeout_s - (time.monotonic() - started)) > 0:
            try:
                return self._ask(group, partitions, stable, max(0.1, left_s))
            except KafkaException as error:
                raised: KafkaError = error.args[0]
                if kind_of(raised) is not Unreachable:
                    raise classify(raised, f"committed offsets of {group}") from error
                pending = raised.code() == KafkaError.UNSTABLE_OFFSET_COMMIT
            time.sleep(0.02)
        if pending:
            raise Pending(group, partitions, timeout_s)
        # This one may never answer (see ``limits.ADMIN_ATTEMPT_S``); who asks next gets another.
        self._client = admin_client(self._config, self._connection)
        raise self._connection.silence(f"committed offsets of {group}", timeout_s)

    def _ask(
        self, group: str, partitions: frozenset[Partition], stable: Stability, timeout_s: float
    ) -> dict[Partition, Committed]:
        if not partitions:
            return {}
        rows = [TopicPartition(p.topic, p.number) for p in sorted(partitions)]
        asked = self._client.list_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, rows)],
            require_stable=stable is Stability.STABLE,
            request_timeout=timeout_s,
        )
        try:
            answer = asked[group].result(timeout_s + 1.0)
        except concurrent.futures.TimeoutError as error:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from error  # noqa: SLF001
        found: dict[Partition, Committed] = {}
        for row in cast("list[TopicPartition]", answer.topic_partitions):
            if row.error is not None:
                raise KafkaException(row.error)
            offset = row.offset if row.offset >= 0 else None
            found[Partition(row.topic, row.partition)] = Committed(offset, row.metadata or "")
        return found
