"""Turns what ``consume`` returned into runs of columns.

The hot path of the poll thread: some 0.4 us per record, all of it in C loops over methods of
``confluent_kafka.Message`` (``map`` of an unbound method is the cheapest way to read one field of
many messages). Rules: no Python statement runs per record unless a message is an error.
"""

from __future__ import annotations

from itertools import compress, count, islice
from operator import ne
from typing import TYPE_CHECKING, NamedTuple, cast

from confluent_kafka import Message

from onceflow.ids import Partition
from onceflow.kafka.records import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from onceflow.kafka.records import Headers

_offset = cast("Callable[[Message], int]", Message.offset)
_key = cast("Callable[[Message], bytes | None]", Message.key)
_value = cast("Callable[[Message], bytes | None]", Message.value)
_headers = cast("Callable[[Message], Headers | None]", Message.headers)
_topic = cast("Callable[[Message], str]", Message.topic)
_number = cast("Callable[[Message], int]", Message.partition)


class Batch(NamedTuple):
    """Messages of one poll, apart by partition (in order within each), and its error messages."""

    groups: dict[Partition, list[Message]]
    errors: list[Message]


def split(messages: list[Message]) -> Batch:
    """Group the messages of one poll by partition, keeping their order within each."""
    errors: list[Message] = []
    if any(map(Message.error, messages)):
        errors = [m for m in messages if m.error() is not None]
        messages = [m for m in messages if m.error() is None]
    groups: dict[Partition, list[Message]] = {}
    total = len(messages)
    if not total:
        return Batch(groups, errors)
    # librdkafka delivers long chunks of one partition, so it is enough to find where one ends.
    numbers = list(map(_number, messages))
    topics = list(map(_topic, messages))
    borders = {
        *compress(count(1), map(ne, numbers, islice(numbers, 1, None))),
        *compress(count(1), map(ne, topics, islice(topics, 1, None))),
    }
    start = 0
    for end in (*sorted(borders), total):
        partition = Partition(topics[start], numbers[start])
        chunk = messages[start:end] if end - start < total else messages
        if partition in groups:
            groups[partition] += chunk
        else:
            groups[partition] = chunk
        start = end
    return Batch(groups, errors)


def run_of(partition: Partition, messages: list[Message], fetch: int) -> Run:
    """Read the columns of consecutive messages of one partition."""
    keys = list(map(_key, messages))
    values = list(map(_value, messages))
    headers = list(map(_headers, messages))
    return Run(
        partition=partition,
        offsets=list(map(_offset, messages)),
        keys=keys,
        values=values,
        timestamps=[stamp[1] for stamp in map(Message.timestamp, messages)],
        headers=headers if any(headers) else None,
        size_bytes=sum(map(len, filter(None, values))) + sum(map(len, filter(None, keys))),
        fetch=fetch,
    )


def runs_of(
    partition: Partition, messages: list[Message], fetch: int, records_max: int
) -> list[Run]:
    """As ``run_of``, in runs of at most ``records_max`` records."""
    if len(messages) <= records_max:
        return [run_of(partition, messages, fetch)]
    return [
        run_of(partition, messages[start : start + records_max], fetch)
        for start in range(0, len(messages), records_max)
    ]
