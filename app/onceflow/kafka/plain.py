"""An idempotent producer without transactions, for what is delivered at least once.

Decides how sends outside an epoch reach Kafka: ``delivery="at_least_once"`` and processes that are
only clients. Its records are visible at once and survive an abort; a crash between the send and
whatever recorded it sends again.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from confluent_kafka import KafkaException, Producer

from onceflow.errors import Unreachable
from onceflow.kafka.configuration import NO_HOOKS, producer_config
from onceflow.kafka.errors import ProducerFull, classify

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from confluent_kafka import KafkaError, Message
    from confluent_kafka._types import HeadersType

    from onceflow.errors import OnceflowError
    from onceflow.kafka.configuration import ClientConfig, Hooks
    from onceflow.kafka.records import Headers


class Delivery(NamedTuple):
    """Where a record landed: topic, partition number, offset, timestamp in milliseconds."""

    topic: str
    number: int
    offset: int
    timestamp_ms: int


def enqueue(
    client: Producer,
    topic: str,
    value: bytes | None,
    key: bytes | None,
    partition: int | None,
    timestamp_ms: int | None,
    headers: Headers | None,
    on_delivery: Callable[[KafkaError | None, Message], None] | None,
) -> None:
    """Put one record into the queue of a client of either kind; librdkafka copies it.

    Raises:
        ProducerFull: the queue has no room; nothing was added.
        SerializationError, TransactionAborted, OutcomeUnknown: as the message says.
    """
    try:
        client.produce(
            topic,
            value,
            key,
            -1 if partition is None else partition,
            timestamp=timestamp_ms or 0,
            headers=cast("HeadersType | None", headers),
            on_delivery=on_delivery,
        )
    except BufferError as error:
        raise ProducerFull(
            f"the producer's queue is full ({len(client)} records wait); nothing is lost. Wait for"
            " deliveries and produce again; if it lasts, check that the brokers answer"
        ) from error
    except KafkaException as error:
        raise classify(error.args[0], f"produce to {topic}") from error


class PlainProducer:
    """Created and used on the event loop; a thread of its own waits for delivery reports."""

    def __init__(
        self, config: ClientConfig, loop: asyncio.AbstractEventLoop, *, hooks: Hooks = NO_HOOKS
    ) -> None:
        self._loop = loop
        try:
            self._producer = Producer(producer_config(config, None, hooks=hooks))
        except KafkaException as error:
            raise classify(error.args[0], "producer") from error
        self._stopping = False
        self._failure: OnceflowError | None = None
        # Filled by whichever thread serves reports, emptied on the loop.
        self._delivered: deque[tuple[asyncio.Future[Delivery], Delivery | Exception]] = deque()
        self._thread = threading.Thread(target=self._main, name="onceflow-plain", daemon=True)
        self._thread.start()

    @property
    def queued(self) -> int:
        """Records and requests that wait for the brokers."""
        return len(self._producer)

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
    ) -> asyncio.Future[Delivery]:
        """Send one record; the future ends with its place, or with the reason it failed.

        Raises:
            ProducerFull: wait, and produce this record again.
            SerializationError: the record is too large.
            OutcomeUnknown, Fenced: this producer has failed for good; make a new one.
        """
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Delivery] = self._loop.create_future()

        def delivered(error: KafkaError | None, message: Message) -> None:
            self._delivered.append((future, _outcome(error, message)))

        enqueue(self._producer, topic, value, key, partition, timestamp_ms, headers, delivered)
        return future

    async def flush(self, timeout_s: float) -> None:
        """Wait until everything sent is delivered or has failed.

        Raises:
            Unreachable: some records are still queued; their futures stay open.
        """
        try:
            left = await self._loop.run_in_executor(None, self._producer.flush, timeout_s)
        except KafkaException as error:
            raise classify(error.args[0], "flush") from error
        # The reports served by the flush itself are handed over like all others.
        self._hand_over()
        if left:
            raise Unreachable(
                f"{left} records were not acknowledged within {timeout_s} s and may be delivered"
                " later. Check that the brokers answer"
            )

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Flush and end the thread.

        Raises:
            Unreachable: as ``flush``; the thread has ended all the same.
        """
        try:
            await self.flush(timeout_s)
        finally:
            self._stopping = True
            await self._loop.run_in_executor(None, self._thread.join, 5.0)
            self._hand_over()

    def _main(self) -> None:
        while not self._stopping:
            try:
                self._producer.poll(0.1)
            except KafkaException as error:
                # The binding raises a fatal error once; what is queued fails with its own report,
                # and what is sent later is refused.
                self._failure = classify(error.args[0], "at-least-once producer")
            if self._delivered:
                self._loop.call_soon_threadsafe(self._hand_over)

    def _hand_over(self) -> None:
        """Complete the futures; on the loop. One wake-up serves all reports of a poll."""
        while self._delivered:
            future, outcome = self._delivered.popleft()
            if future.done():
                continue
            if isinstance(outcome, Delivery):
                future.set_result(outcome)
            else:
                future.set_exception(outcome)


def _outcome(error: KafkaError | None, message: Message) -> Delivery | Exception:
    if error is not None:
        return classify(error, f"deliver to {message.topic()}")
    return Delivery(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        message.timestamp()[1],
    )
