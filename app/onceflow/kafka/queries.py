"""Blocking questions to the brokers, with a bound, shared by the rooms of this folder.

Decides how a question is repeated while leaders are elected: until the bound, unless the topic does
not exist. What fails is raised as librdkafka raised it; the callers here classify it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from confluent_kafka import (
    OFFSET_INVALID,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    OffsetSpec,  # pyright: ignore[reportPrivateImportUsage] - documented, but not listed
)

from onceflow.errors import Unreachable
from onceflow.ids import Partition
from onceflow.kafka.configuration import Hooks, admin_config
from onceflow.kafka.errors import classify, kind_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.connection import Connection

EARLIEST = cast("OffsetSpec", OffsetSpec.earliest())
LATEST = cast("OffsetSpec", OffsetSpec.latest())

_RETRY_S = 0.05
"""Between repetitions: an election on a healthy cluster takes some ten milliseconds."""


@dataclass(frozen=True, slots=True)
class TopicDescription:
    """A topic as the brokers know it.

    Attributes:
        name: its name.
        topic_id: changes when a topic is deleted and made again under the same name.
        partition_count: number of partitions.
        replication_factor: number of replicas of partition 0.
        leaderless: numbers of partitions that nobody leads at the moment.
    """

    name: str
    topic_id: str
    partition_count: int
    replication_factor: int
    leaderless: tuple[int, ...] = ()


def admin_client(config: ClientConfig, connection: Connection) -> Any:
    """Make an administration client that tells its troubles to ``connection``.

    It must outlive its futures: they fail when it is dropped. They carry no types, hence ``Any``.
    """
    try:
        return AdminClient(admin_config(config, hooks=Hooks(on_error=connection)))
    except KafkaException as error:
        raise classify(error.args[0], "administration") from error


def describe_topics(client: Any, names: list[str], timeout_s: float) -> dict[str, TopicDescription]:
    """Describe topics; those that do not exist are left out.

    DescribeTopics never creates a topic, unlike a metadata request to brokers with automatic
    creation.
    """
    if not names:
        return {}
    asked = client.describe_topics(TopicCollection(names), request_timeout=timeout_s)
    found: dict[str, TopicDescription] = {}
    for name, future in asked.items():
        try:
            topic = future.result(timeout_s)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            continue
        partitions = topic.partitions
        found[name] = TopicDescription(
            name=name,
            topic_id=str(topic.topic_id),
            partition_count=len(partitions),
            replication_factor=len(partitions[0].replicas) if partitions else 0,
            leaderless=tuple(p.id for p in partitions if p.leader is None or p.leader.id < 0),
        )
    return found


def list_offsets(
    client: Any, specs: Mapping[Partition, OffsetSpec], timeout_s: float
) -> dict[Partition, int]:
    """Ask for offsets of the log, read_uncommitted, so that open transactions count."""
    deadline = time.monotonic() + timeout_s
    while True:
        left_s = max(0.1, deadline - time.monotonic())
        try:
            return _list_offsets_once(client, specs, left_s)
        except KafkaException as error:
            if time.monotonic() + _RETRY_S > deadline or not _is_passing(
                client, error.args[0], specs, left_s
            ):
                raise
        except Unreachable:
            if time.monotonic() + _RETRY_S > deadline:
                raise
        time.sleep(_RETRY_S)


def _list_offsets_once(
    client: Any, specs: Mapping[Partition, OffsetSpec], timeout_s: float
) -> dict[Partition, int]:
    if not specs:
        return {}
    asked = client.list_offsets(
        {TopicPartition(p.topic, p.number): spec for p, spec in specs.items()},
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=timeout_s,
    )
    found = {
        Partition(row.topic, row.partition): future.result(timeout_s).offset
        for row, future in asked.items()
    }
    unanswered = sorted(p for p, offset in found.items() if offset == OFFSET_INVALID)
    if unanswered:
        # librdkafka hands out its own "no offset", without an error, for partitions whose broker
        # went away while it was asked. Taken for an offset it would look like a truncated log.
        names = ", ".join(f"{p.topic}[{p.number}]" for p in unanswered)
        raise Unreachable(
            f"Kafka told no offset of {names}: their broker went away while it was asked. Nothing "
            f"was decided by it. Check the brokers, then start again."
        )
    return found


def _is_passing(
    client: Any, error: KafkaError, specs: Mapping[Partition, OffsetSpec], timeout_s: float
) -> bool:
    """Whether asking again can help; raises if it cannot because a topic does not exist."""
    if error.code() not in _NO_LEADER:
        return kind_of(error) is Unreachable
    names = sorted({p.topic for p in specs})
    found = describe_topics(client, names, timeout_s)
    for name in names:
        counted = found.get(name)
        numbers = [p.number for p in specs if p.topic == name]
        if counted is None or max(numbers) >= counted.partition_count:
            raise KafkaException(
                KafkaError(
                    KafkaError.UNKNOWN_TOPIC_OR_PART,
                    f"{name} does not exist, or has not so many partitions ({max(numbers) + 1})",
                )
            )
    return True


_NO_LEADER = frozenset({KafkaError._NOENT, KafkaError.UNKNOWN_TOPIC_OR_PART})  # noqa: SLF001
"""What is answered for a topic that is not there, and for one whose leaders are being elected."""
