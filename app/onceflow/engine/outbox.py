"""The two answers to a send: in the record's epoch at once, or committed later.

A send without a record (timer, task, web view) is an `OutboxEntry` until the epoch that carries it
is committed; `Accepted` is what a send for a record gives back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.types import TP
from faust.types.tuples import RecordMetadata

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Generator

    from onceflow.kafka.producer import TransactionalProducer


class Accepted:
    """The answer to a send made for a record: it is in the record's epoch.

    Awaiting it gives metadata at once, without waiting for the commit, because the commit waits
    for the record. The offset is -1: which one it gets is known only when the epoch is over.
    """

    __slots__ = ("partition", "topic")

    def __init__(self, topic: str, partition: int | None) -> None:
        self.topic = topic
        self.partition = partition

    def result(self) -> RecordMetadata:
        """Return what is known of the record before its commit."""
        partition = -1 if self.partition is None else self.partition
        return RecordMetadata(self.topic, partition, TP(self.topic, partition), -1)

    def done(self) -> bool:
        """Return True: nothing is waited for."""
        return True

    def add_done_callback(self, callback: Callable[[Any], Any]) -> None:
        """Call ``callback`` with this object at once."""
        callback(self)

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        return self.result()
        yield


class OutboxEntry:
    """A send without a record, until it is committed.

    Fields:
        place: partition and offset of its last delivery; set by the transaction thread before the
            commit that makes them final returns.
    """

    __slots__ = ("future", "headers", "key", "partition", "place", "timestamp_ms", "topic", "value")

    def __init__(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Any,
        future: asyncio.Future[RecordMetadata],
    ) -> None:
        self.topic = topic
        self.key = key
        self.value = value
        self.partition = partition
        self.timestamp_ms = timestamp_ms
        self.headers = headers
        self.future = future
        self.place = (-1, -1)

    def produce(self, transaction: TransactionalProducer) -> None:
        """Put it into the transaction.

        Raises:
            ProducerFull: its queue takes no more at this moment.
            SerializationError: it is too large, which only its sender can mend.
        """
        transaction.produce(
            self.topic,
            self.value,
            self.key,
            self.partition,
            self.timestamp_ms,
            self.headers,
            self._delivered,
        )

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self.place = (message.partition(), message.offset())

    def resolve(self) -> None:
        """Tell its sender where it was committed."""
        if not self.future.done():
            partition, offset = self.place
            self.future.set_result(
                RecordMetadata(self.topic, partition, TP(self.topic, partition), offset)
            )
