"""Sends: into the epoch of the record being processed, or through the outbox into the next one.

A send made for a record goes to the transactional producer at once; the transaction carries it or
drops it with the record. A send without a record (timer, task, web view) waits in the outbox: it
is produced in the open epoch, repeated after an abort, and its future resolves after the commit.
``delivery="at_least_once"`` goes past the transaction through a plain producer.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

from faust.types import TP
from faust.types.tuples import RecordMetadata

from onceflow.engine.outbox import Accepted, OutboxEntry
from onceflow.engine.records import RecordEvent, RecordRef, current_event_ref
from onceflow.errors import (
    ConfigError,
    Fenced,
    OnceflowError,
    OutcomeUnknown,
    OutsideRecord,
    SerializationError,
    StaleAttempt,
    TransactionAborted,
)
from onceflow.kafka.errors import ProducerFull
from onceflow.limits import OUTBOX_RECORDS_MAX, TIMESTAMP_AHEAD_MAX_MS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from faust.types import FutureMessage

    from onceflow.engine.declaring import Declarations
    from onceflow.engine.gate import Gate
    from onceflow.kafka.plain import PlainProducer
    from onceflow.kafka.producer import TransactionalProducer


class Sender:
    """Where every send of the application goes.

    Fields:
        existing: topics known to exist; who can await makes others first (`Declarations`).
        announce: Faust's signal ``on_produce_message``, if somebody listens; may add headers.
        arrived: called when an entry has to wait, so that a worker without partitions commits it.
        transaction: the producer whose transaction is open, or None between epochs.
        waiting: outbox entries not produced in the present attempt, oldest first.
        in_epoch: outbox entries produced in the present attempt. Invariant: after an abort they
            stand in front of ``waiting`` again, in order.
        sent: records of the present epoch sent for records.
        refused: whether the transaction took an outbox entry no more, so that it has to end.
    """

    def __init__(
        self, gate: Gate, plain: Callable[[], PlainProducer], declarations: Declarations
    ) -> None:
        self.gate = gate
        self.declarations = declarations
        self.existing = declarations.existing
        self.transaction: TransactionalProducer | None = None
        self.waiting: deque[OutboxEntry] = deque()
        self.in_epoch: list[OutboxEntry] = []
        self.sent = 0
        self.sent_bytes = 0
        self.refused = False
        self.in_worker = False
        self.produced: dict[str, int] = {}
        self.arrived: Callable[[], None] = _ignore
        self.announce: Callable[..., None] | None = None
        self._plain = plain
        self._delivery: ContextVar[str] = ContextVar("delivery")

    # -- sends of user code --

    def send(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None = None,
        timestamp: float | None = None,
        headers: Any = None,
        *,
        delivery: str = "exactly_once",
    ) -> Awaitable[RecordMetadata]:
        """Send one encoded record.

        Raises:
            SerializationError: too large, or a timestamp that the broker would refuse; the record
                being processed is to blame.
            OutsideRecord: the record it is sent for is finished already.
            StaleAttempt: the attempt it belongs to was aborted; it is dropped.
        """
        if topic not in self.existing:
            self.declarations.ensure_soon(topic)
        timestamp_ms = None if timestamp is None else self._timestamp_ms(topic, timestamp)
        if self.announce is not None:
            headers = list(headers.items() if isinstance(headers, Mapping) else headers or ())
            self.announce(
                key=key, value=value, partition=partition, timestamp=timestamp, headers=headers
            )
        if headers is not None:
            headers = _header_list(topic, headers)
        delivery = self._delivery.get(delivery)
        if delivery != "exactly_once":
            return self._send_outside(topic, key, value, partition, timestamp_ms, headers, delivery)
        reference = current_event_ref.get(None)
        event = reference() if reference is not None else None
        if event.__class__ is not RecordEvent:
            if event is None and reference.__class__ is RecordRef:
                raise _finished(topic)
            return self._send_later(topic, key, value, partition, timestamp_ms, headers)
        self._check(cast("RecordEvent", event), topic)
        transaction = self.transaction
        if transaction is None:
            raise StaleAttempt(f"No epoch is open for the send to {topic}; it is dropped.")
        try:
            transaction.produce(topic, value, key, partition, timestamp_ms, headers)
        except ProducerFull:
            self._make_room(transaction)
            transaction.produce(topic, value, key, partition, timestamp_ms, headers)
        self.sent += 1
        self.sent_bytes += (len(value) if value else 0) + (len(key) if key else 0)
        self.produced[topic] = self.produced.get(topic, 0) + 1
        return Accepted(topic, partition)

    @contextmanager
    def outside(self, delivery: str) -> Generator[None]:
        """Give the sends made inside the block (by Faust's own code) this delivery."""
        token = self._delivery.set(delivery)
        try:
            yield
        finally:
            self._delivery.reset(token)

    def _check(self, event: RecordEvent, topic: str) -> None:
        if not event.live:
            raise _finished(topic)
        if event.batch.stamp is not self.gate.stamp:
            raise StaleAttempt(
                f"The attempt that the send to {topic} belongs to was aborted; the record is "
                "replayed. The send is dropped; nothing to do."
            )

    def _timestamp_ms(self, topic: str, timestamp: float) -> int:
        timestamp_ms = int(timestamp * 1000)
        ahead_ms = timestamp_ms - time.time() * 1000  # noqa: TID251 - the broker's limit is wall time
        if ahead_ms > TIMESTAMP_AHEAD_MAX_MS:
            bound_ms = self.declarations.timestamp_ahead_ms(topic)
            if ahead_ms > bound_ms:
                raise SerializationError(
                    f"The timestamp of a record for {topic} is {ahead_ms / 1000:.0f} s ahead of "
                    f"the clock; the broker refuses more than some {bound_ms / 1000:.0f} s "
                    "(message.timestamp.after.max.ms of the topic), again at every replay. "
                    "Nothing of it was sent. Correct the timestamp, or leave it out."
                )
        return timestamp_ms

    def _make_room(self, transaction: TransactionalProducer) -> None:
        """Wait for the producer's queue to drain: it is bounded, and a send cannot be refused."""
        for _ in range(_ROOM_POLLS):
            transaction.poll()
            if transaction.queued < _ROOM_RECORDS:
                return
            time.sleep(_ROOM_POLL_S)

    def _send_outside(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Any,
        delivery: str,
    ) -> Awaitable[RecordMetadata]:
        if delivery != "at_least_once":
            raise ConfigError(
                f"delivery={delivery!r} is unknown. Nothing was sent. Use 'exactly_once' (the "
                "default) or 'at_least_once', which sends outside the transaction."
            )
        delivery_report = self._plain().send(topic, value, key, partition, timestamp_ms, headers)
        return asyncio.ensure_future(_metadata_of(delivery_report))

    def _send_later(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int | None,
        timestamp_ms: int | None,
        headers: Any,
    ) -> Awaitable[RecordMetadata]:
        if not self.in_worker:
            return self._send_outside(
                topic, key, value, partition, timestamp_ms, headers, "at_least_once"
            )
        if len(self.waiting) >= OUTBOX_RECORDS_MAX:
            raise OutsideRecord(
                f"{OUTBOX_RECORDS_MAX} sends without a record wait for a commit; the send to "
                f"{topic} was refused, so that memory stays bounded. Await the sends of timers, "
                "tasks and views, and check why nothing is committed (/health/ready)."
            )
        future: asyncio.Future[RecordMetadata] = asyncio.get_running_loop().create_future()
        entry = OutboxEntry(topic, key, value, partition, timestamp_ms, headers, future)
        self.waiting.append(entry)
        self.drain_outbox()
        if self.waiting:
            self.arrived()
        return future

    def send_message(self, topic: str, message: FutureMessage) -> Awaitable[RecordMetadata]:
        """Send what Faust encoded already, and complete its future with the answer."""
        pending = message.message
        sent = self.send(
            topic,
            cast("bytes | None", pending.key),
            cast("bytes | None", pending.value),
            pending.partition,
            pending.timestamp,
            pending.headers,
        )
        self.call_back(sent, message)
        return sent

    def call_back(self, sent: Any, message: FutureMessage) -> None:
        """Complete Faust's message future with a send's answer and call the user's callback."""

        def complete(done: Any) -> None:
            if isinstance(done, asyncio.Future) and (done.cancelled() or done.exception()):
                _fail(message, done)
                return
            if not message.done():
                message.set_result(done.result())
            if message.message.callback:
                message.message.callback(message)

        if isinstance(sent, (Accepted, asyncio.Future)):
            sent.add_done_callback(complete)
        else:
            asyncio.ensure_future(sent).add_done_callback(complete)

    # -- called by the epochs --

    def begin(self, transaction: TransactionalProducer) -> None:
        """Take sends into the transaction just begun; waiting outbox entries go first."""
        self.transaction = transaction
        self.refused = False
        self.drain_outbox()

    def drain_outbox(self) -> None:
        """Produce waiting outbox entries into the open epoch, if one takes records."""
        transaction = self.transaction
        if transaction is None:
            return
        while self.waiting:
            entry = self.waiting[0]
            try:
                entry.produce(transaction)
            except ProducerFull:
                return
            except (TransactionAborted, Fenced, OutcomeUnknown):
                # Its sender has done nothing wrong, and the entry waits for the next attempt: the
                # epoch's end shows what is the matter with the transaction.
                self.refused = True
                return
            except SerializationError as error:
                self.waiting.popleft()
                if not entry.future.done():
                    entry.future.set_exception(error)
                continue
            self.waiting.popleft()
            self.in_epoch.append(entry)
            self.sent_bytes += (len(entry.value) if entry.value else 0) + (
                len(entry.key) if entry.key else 0
            )
            self.produced[entry.topic] = self.produced.get(entry.topic, 0) + 1

    def produce(
        self,
        transaction: TransactionalProducer,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        headers: Any,
    ) -> None:
        """Put a record of the engine's own into the epoch; waits for room in the queue.

        Raises:
            SerializationError: it is too large.
            ProducerFull: there was no room within five seconds.
        """
        try:
            transaction.produce(topic, value, key, headers=headers)
        except ProducerFull:
            self._make_room(transaction)
            transaction.produce(topic, value, key, headers=headers)

    def note_effect(self, topic: str, size_bytes: int) -> None:
        """Count a record that the engine itself put into the epoch (a dead letter)."""
        self.sent += 1
        self.sent_bytes += size_bytes
        self.produced[topic] = self.produced.get(topic, 0) + 1

    def has_effects(self) -> bool:
        """Return whether the open epoch carries sends."""
        return bool(self.sent or self.in_epoch or self.refused)

    def close(self) -> None:
        """Take nothing more into this epoch; outbox sends wait for the next one."""
        self.transaction = None

    def committed(self) -> None:
        """Resolve the futures of the epoch's outbox sends."""
        self.sent = 0
        self.sent_bytes = 0
        entries, self.in_epoch = self.in_epoch, []
        for entry in entries:
            entry.resolve()

    def aborted(self) -> None:
        """Put the outbox sends of the aborted attempt back, in order; drop the others."""
        self.sent = 0
        self.sent_bytes = 0
        self.transaction = None
        self.waiting.extendleft(reversed(self.in_epoch))
        self.in_epoch = []

    def unknown(self) -> None:
        """Fail the futures of outbox sends whose commit nobody can tell any more."""
        entries, self.in_epoch = self.in_epoch, []
        self.sent = 0
        self.sent_bytes = 0
        for entry in entries:
            if not entry.future.done():
                entry.future.set_exception(
                    OutcomeUnknown(
                        f"Whether the send to {entry.topic} was committed cannot be told: the "
                        "answer to its commit was lost together with all partitions. Read the "
                        "topic to find out, and send it again if it is missing."
                    )
                )

    def take_produced(self) -> Iterable[tuple[str, int]]:
        """Return and reset how many records were produced per topic (for metrics)."""
        produced, self.produced = self.produced, {}
        return produced.items()


def _finished(topic: str) -> OutsideRecord:
    return OutsideRecord(
        f"A send to {topic} belongs to a record that is finished already, such as from a "
        "task started by the agent. Its epoch may be committed, so nothing was sent. "
        "Await the work inside the agent, or send with delivery='at_least_once'."
    )


def _fail(message: FutureMessage, sent: asyncio.Future[Any]) -> None:
    """Let who awaits Faust's message future know why it was not sent."""
    if message.done():
        return
    error = None if sent.cancelled() else sent.exception()
    if error is None:
        message.cancel()
    else:
        message.set_exception(error)


def _ignore() -> None:
    """Have nobody to tell: no worker runs in this process."""


_ROOM_POLL_S = 0.01
_ROOM_POLLS = 500
"""At most 5 s: longer than that the broker is away, and the epoch's own bounds take over."""
_ROOM_RECORDS = 400_000


def _header_list(topic: str, headers: Any) -> list[tuple[str, bytes | None]] | None:
    """Return headers as Kafka takes them; Faust's are a mapping or pairs, values text or bytes."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    listed: list[tuple[str, bytes | None]] = []
    for name, value in pairs:
        plain = value.encode() if isinstance(value, str) else value
        if plain is not None and not isinstance(plain, bytes):
            raise SerializationError(
                f"Header {name!r} of a record for {topic} is a {type(value).__name__}; Kafka takes "
                "bytes, text and None. Nothing of it was sent. Encode the value."
            )
        listed.append((str(name), plain))
    return listed or None


def not_encoded(topic: str, key: Any, value: Any, error: Exception) -> OnceflowError:
    """Return the error for a key or value that the topic's codecs cannot encode."""
    if isinstance(error, OnceflowError):
        return error
    return SerializationError(
        f"A record for {topic} cannot be encoded (key {type(key).__name__}, value "
        f"{type(value).__name__}): {error!r}. Nothing of it was sent. Give the topic a serializer "
        "or type that takes such values, or convert them."
    )


async def _metadata_of(delivery: Awaitable[Any]) -> RecordMetadata:
    delivered = await delivery
    place = TP(delivered.topic, delivered.number)
    return RecordMetadata(place.topic, place.partition, place, delivered.offset)
