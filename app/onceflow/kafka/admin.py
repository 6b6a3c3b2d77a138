"""Topics, configurations and offsets of the log, asked of the brokers with a bound.

Decides how administrative requests wait and what their failures mean. librdkafka's administration
calls block or return futures of its own; they run on a few threads here, so that the event loop
never blocks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage] - documented, but not listed
    NewTopic,  # pyright: ignore[reportPrivateImportUsage]
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from onceflow import limits
from onceflow.errors import TopologyError, Unreachable
from onceflow.ids import Partition
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import classify, kind_of
from onceflow.kafka.queries import (
    EARLIEST,
    LATEST,
    TopicDescription,
    admin_client,
    describe_topics,
    list_offsets,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from onceflow.kafka.configuration import ClientConfig

__all__ = ["Admin", "TopicDescription", "Watermarks"]

T = TypeVar("T")


class Watermarks(NamedTuple):
    """Log start offset, and high watermark as a read_uncommitted client sees it."""

    low: int
    high: int


class Admin:
    """Administration of one cluster. All methods may be called from the event loop."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._connection = Connection()
        self._client = admin_client(config, self._connection)
        self._executor = concurrent.futures.ThreadPoolExecutor(
            limits.ADMIN_THREADS, thread_name_prefix="onceflow-admin"
        )

    def close(self) -> None:
        """End the threads; requests under way are given up."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def cluster_id(self, timeout_s: float = limits.ADMIN_S_MAX) -> str:
        """Id of the cluster.

        Raises:
            Unreachable: no broker answered within the bound.
        """
        return await self._blocking("cluster id", self._cluster_id, timeout_s)

    def _cluster_id(self, timeout_s: float) -> str:
        return self._client.cluster_id(timeout_s)

    async def topics(
        self, names: Iterable[str], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[str, TopicDescription]:
        """Describe topics; those that do not exist are left out."""
        wanted = sorted(names)
        return await self._blocking(
            "describe topics", lambda s: describe_topics(self._client, wanted, s), timeout_s
        )

    async def partitions(self, timeout_s: float = limits.ADMIN_S_MAX) -> frozenset[Partition]:
        """Every partition of every topic, Kafka's own topics left out."""
        return await self._blocking("list topics", self._partitions, timeout_s)

    def _partitions(self, timeout_s: float) -> frozenset[Partition]:
        found = self._client.list_topics(timeout=timeout_s).topics
        return frozenset(
            Partition(name, number)
            for name, topic in found.items()
            if not name.startswith("__")
            for number in topic.partitions
        )

    async def topic_configs(
        self, names: Iterable[str], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[str, dict[str, str]]:
        """Effective configuration of existing topics, by topic and name of the setting.

        Raises:
            Unreachable: the brokers did not know one of them within the bound.
        """
        wanted = sorted(names)
        return await self._blocking(
            "describe configs", lambda s: self._configs(wanted, s), timeout_s
        )

    def _configs(self, names: list[str], timeout_s: float) -> dict[str, dict[str, str]]:
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        asked = self._client.describe_configs(resources, request_timeout=timeout_s)
        found: dict[str, dict[str, str]] = {}
        for resource, future in asked.items():
            try:
                entries = future.result(timeout_s).items()
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
                # The broker that was asked has not heard yet of a topic that was just made.
                time.sleep(limits.ADMIN_AGAIN_S)
                raise Unreachable(
                    f"describe configs: the brokers do not know the topic {resource.name}, which "
                    "exists or was just made; nothing was committed. Check that nobody deletes it"
                ) from error
            found[resource.name] = {n: e.value for n, e in entries if e.value is not None}
        return found

    async def create_topic(
        self,
        name: str,
        partition_count: int,
        *,
        replication_factor: int = -1,
        config: Mapping[str, str] | None = None,
        timeout_s: float = limits.ADMIN_S_MAX,
    ) -> TopicDescription:
        """Make a topic and wait until every partition has a leader; an existing one is fine.

        Args:
            name: of the topic.
            partition_count: number of partitions.
            replication_factor: -1 takes the brokers' default.
            config: such as ``{"cleanup.policy": "compact"}``; of a topic that exists it is not
                changed.
            timeout_s: bound on all of it.

        Raises:
            TopologyError: it exists with another number of partitions; the message says what to do.
            Unreachable: it was not seen within the bound.
        """
        new = NewTopic(name, partition_count, replication_factor, config=dict(config or {}))
        return await self._blocking(
            f"create topic {name}", lambda s: self._create(new, s), timeout_s
        )

    def _create(self, new: NewTopic, timeout_s: float) -> TopicDescription:
        deadline = time.monotonic() + timeout_s
        asked = self._client.create_topics(
            [new], operation_timeout=timeout_s, request_timeout=timeout_s
        )
        try:
            asked[new.topic].result(timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        while (left_s := deadline - time.monotonic()) > 0:
            found = describe_topics(self._client, [new.topic], max(1.0, left_s)).get(new.topic)
            if found is not None and not found.leaderless:
                if found.partition_count != new.num_partitions:
                    raise TopologyError(
                        f"topic {new.topic} exists with {found.partition_count} partitions, but"
                        f" {new.num_partitions} are needed; nothing was changed. Keys would land"
                        " elsewhere: use a topic of another name, or set the number to match"
                    )
                # The leaders are named before they serve; an answer of each shows that they do.
                partitions = [Partition(new.topic, n) for n in range(found.partition_count)]
                if self._serves(partitions, left_s):
                    return found
            time.sleep(0.02)
        raise Unreachable(
            f"topic {new.topic} was created but not all of its partitions have a leader after"
            f" {timeout_s} s; check that all brokers run"
        )

    def _serves(self, partitions: list[Partition], left_s: float) -> bool:
        """Whether all leaders answer; one of several brokers may not have heard of them yet."""
        try:
            list_offsets(self._client, dict.fromkeys(partitions, EARLIEST), max(1.0, left_s))
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            return False
        return True

    async def delete_topics(
        self, names: Iterable[str], timeout_s: float = limits.ADMIN_S_MAX
    ) -> None:
        """Delete topics; those that do not exist are fine. For tests and ``reset``."""
        wanted = sorted(names)
        await self._blocking("delete topics", lambda s: self._delete(wanted, s), timeout_s)

    def _delete(self, names: list[str], timeout_s: float) -> None:
        if not names:
            return
        asked = self._client.delete_topics(
            names, operation_timeout=timeout_s, request_timeout=timeout_s
        )
        for future in asked.values():
            try:
                future.result(timeout_s)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise

    async def delete_records(
        self, before: Mapping[Partition, int], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[Partition, int]:
        """Delete the records below these offsets; returns the log start offsets that resulted."""
        return await self._blocking(
            "delete records", lambda s: self._delete_records(before, s), timeout_s
        )

    def _delete_records(
        self, before: Mapping[Partition, int], timeout_s: float
    ) -> dict[Partition, int]:
        rows = [TopicPartition(p.topic, p.number, offset) for p, offset in before.items()]
        if not rows:
            return {}
        asked = self._client.delete_records(
            rows, request_timeout=timeout_s, operation_timeout=timeout_s
        )
        return {
            Partition(row.topic, row.partition): future.result(timeout_s).low_watermark
            for row, future in asked.items()
        }

    async def watermarks(
        self, partitions: Iterable[Partition], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[Partition, Watermarks]:
        """Log start offset and high watermark of each partition."""
        wanted = sorted(partitions)
        low = await self.earliest(wanted, timeout_s)
        high = await self.end_offsets(wanted, timeout_s)
        return {p: Watermarks(low[p], high[p]) for p in wanted}

    async def earliest(
        self, partitions: Iterable[Partition], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[Partition, int]:
        """Log start offsets."""
        spec = EARLIEST
        return await self._offsets(dict.fromkeys(partitions, spec), timeout_s)

    async def end_offsets(
        self, partitions: Iterable[Partition], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[Partition, int]:
        """High watermarks, open transactions included (as a read_uncommitted client sees them)."""
        spec = LATEST
        return await self._offsets(dict.fromkeys(partitions, spec), timeout_s)

    async def offsets_for_times(
        self, times_ms: Mapping[Partition, int], timeout_s: float = limits.ADMIN_S_MAX
    ) -> dict[Partition, int | None]:
        """Offset of the first record at or after a time; None where there is none."""
        specs = {p: OffsetSpec.for_timestamp(time_ms) for p, time_ms in times_ms.items()}
        found = await self._offsets(specs, timeout_s)
        return {p: offset if offset >= 0 else None for p, offset in found.items()}

    async def _offsets(
        self, specs: Mapping[Partition, OffsetSpec], timeout_s: float
    ) -> dict[Partition, int]:
        return await self._blocking(
            "list offsets", lambda s: list_offsets(self._client, specs, s), timeout_s
        )

    async def _blocking(self, doing: str, call: Callable[[float], T], timeout_s: float) -> T:
        """Run ``call`` on a thread, with the seconds that it may take; it must be repeatable."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, self._repeat, doing, call, timeout_s)

    def _repeat(self, doing: str, call: Callable[[float], T], timeout_s: float) -> T:
        """Ask until the bound, each time of a fresh client: an old one may never answer again."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(0.1, deadline - time.monotonic())
            try:
                return call(min(left_s, limits.ADMIN_ATTEMPT_S))
            except KafkaException as error:
                raised: KafkaError = error.args[0]
                if kind_of(raised) is not Unreachable:
                    raise classify(raised, doing) from error
                failure: Exception = error
            except (Unreachable, concurrent.futures.TimeoutError) as error:
                failure = error
            refused = self._connection.refusal(doing)
            if refused is not None:
                raise refused from failure
            if time.monotonic() >= deadline:
                if isinstance(failure, Unreachable):
                    raise failure
                raise self._connection.silence(doing, timeout_s) from failure
            self._client = admin_client(self._config, self._connection)
