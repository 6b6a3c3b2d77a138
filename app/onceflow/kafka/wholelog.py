"""Reads one partition from its start to its end, with or without aborted transactions.

For tools that look at a log as a whole. Blocks; ends at the end offset that it took when it began.
"""

from __future__ import annotations

import concurrent.futures
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from onceflow.errors import ConfigError, Unreachable
from onceflow.kafka.configuration import admin_config, reader_config
from onceflow.kafka.errors import classify
from onceflow.limits import ADMIN_S_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onceflow.ids import Partition
    from onceflow.kafka.configuration import ClientConfig, Isolation

_CHUNK = 10_000
_SILENCE_S = 30.0


class LogRecord(NamedTuple):
    """One record of a log."""

    offset: int
    key: bytes | None
    value: bytes | None


def read_log(
    config: ClientConfig, partition: Partition, isolation: Isolation
) -> Iterator[LogRecord]:
    """Yield the records of a partition in order, up to its present end.

    Raises:
        Unreachable: nothing came for half a minute.
    """
    settings = {**reader_config(config), "isolation.level": isolation}
    consumer = Consumer(settings)
    try:
        consumer.assign([TopicPartition(partition.topic, partition.number, OFFSET_BEGINNING)])
        heard_s = time.monotonic()
        while True:
            messages = consumer.consume(_CHUNK, 0.5)
            if messages:
                heard_s = time.monotonic()
            elif time.monotonic() - heard_s > _SILENCE_S:
                raise Unreachable(
                    f"{partition.topic}[{partition.number}] gave nothing for {_SILENCE_S:.0f} s. "
                    "Nothing was changed. Check the brokers, then run it again."
                )
            for message in messages:
                error = message.error()
                if error is None:
                    yield LogRecord(message.offset() or 0, message.key(), message.value())
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 - its own code
                    return
                else:
                    raise classify(error, f"read {partition.topic}[{partition.number}]")
    finally:
        consumer.close()


def require_no_members(config: ClientConfig, group: str) -> None:
    """Refuse while a consumer group has members.

    Raises:
        ConfigError: workers run; stop them first. Nothing was changed.
        Unreachable: the brokers do not answer.
    """
    # Its futures carry no types; it must outlive them.
    client: Any = AdminClient(admin_config(config))
    try:
        asked = client.describe_consumer_groups([group], request_timeout=ADMIN_S_MAX)
        members: list[Any] = asked[group].result(ADMIN_S_MAX).members
    except concurrent.futures.TimeoutError as error:
        raise Unreachable(
            f"The brokers did not say within {ADMIN_S_MAX:.0f} s who is in the group {group}. "
            "Nothing was changed. Check that they answer, then run it again."
        ) from error
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return
        raise classify(error.args[0], f"describe group {group}") from error
    if members:
        raise ConfigError(
            f"{len(members)} workers of {group} are running. Nothing was changed, because their "
            "next epoch would undo it. Stop all workers, then run it again."
        )
