"""The transactional producer, and what the end of a transaction is worth.

Decides how librdkafka's answers to commit and abort are read, and when a producer is *spent*.
Rules of the file:

- Every call has a bound, but ``send_offsets`` ignores its own (librdkafka #5456): it is called on a
  ``CallThread``, whose watchdog fails the worker.
- librdkafka speaks the first transaction protocol and sends EndTxn again by itself; a late
  duplicate completes the *next* transaction half-way (librdkafka #5423). A producer whose end was
  of unknown outcome, slow or disturbed is therefore spent, even if the call succeeded: destroy it,
  fence its id, read the marker, and only then begin again.
- ``begin``, ``produce`` and ``poll`` belong to the event loop and do not block; the others block
  and belong to the transaction thread. librdkafka's own calls are safe from both.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from onceflow import limits
from onceflow.errors import Fenced, InvariantViolation, OnceflowError, Unreachable, invariant
from onceflow.kafka.configuration import NO_HOOKS, Hooks, producer_config
from onceflow.kafka.connection import Connection
from onceflow.kafka.errors import ProducerFull, classify, kind_of, unmasked
from onceflow.kafka.plain import Delivery, PlainProducer, enqueue
from onceflow.kafka.threads import CallThread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from confluent_kafka import Message

    from onceflow.ids import Partition
    from onceflow.kafka.configuration import ClientConfig
    from onceflow.kafka.records import Headers

__all__ = [
    "CallThread",
    "Delivery",
    "EndOutcome",
    "EndResult",
    "PlainProducer",
    "ProducerFull",
    "TransactionalProducer",
    "fence",
]

_QUEUE_FULL = KafkaError._QUEUE_FULL  # noqa: SLF001 - librdkafka's own codes begin so


class EndOutcome(Enum):
    """What is known of a transaction after its commit or abort was asked for."""

    COMMITTED = "committed"
    ABORTED = "aborted"
    ABORTABLE = "abortable"
    """It did not commit and must be aborted; the error says why."""
    UNKNOWN = "unknown"
    """It may have committed. Only the marker, read after fencing, tells."""
    FENCED = "fenced"
    """Somebody took over the id. Of the transaction itself only the marker tells."""


@dataclass(frozen=True, slots=True)
class EndResult:
    """Outcome of a commit or an abort.

    Attributes:
        outcome: what is known.
        spent: the producer must not begin again; destroy it, fence, read the marker.
        elapsed_s: how long the call took.
        error: classified, for everything but COMMITTED and ABORTED.
    """

    outcome: EndOutcome
    spent: bool
    elapsed_s: float
    error: OnceflowError | None = None


class TransactionalProducer:
    """One transactional id. See the module for which thread may call what."""

    def __init__(
        self,
        config: ClientConfig,
        transactional_id: str,
        transaction_timeout_ms: int = 30_000,
        *,
        hooks: Hooks = NO_HOOKS,
    ) -> None:
        self.transactional_id = transactional_id
        # Any error of a connection may have made librdkafka send its EndTxn twice.
        self._connection = Connection(hooks.on_error)
        own = Hooks(self._connection, hooks.on_statistics, hooks.statistics_interval_ms)
        self._producer: Producer | None = _made(
            producer_config(config, transactional_id, transaction_timeout_ms, hooks=own)
        )
        self._fatal: KafkaError | None = None
        self._errors_at_begin = 0

    @property
    def queued(self) -> int:
        """Records and requests that wait for the brokers."""
        return len(self._client)

    # Event loop.

    def begin(self) -> None:
        """Begin a transaction.

        Raises:
            Fenced, OutcomeUnknown, TransactionAborted: the producer cannot go on; destroy it.
        """
        self._errors_at_begin = self._connection.count
        try:
            with unmasked():
                self._client.begin_transaction()
        except KafkaException as error:
            raise self._classified(error, "begin") from error

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
        headers: Headers | None = None,
        on_delivery: Callable[[KafkaError | None, Message], None] | None = None,
    ) -> None:
        """Add one record to the transaction; it is sent in the background.

        Args:
            topic: must exist; nothing creates it.
            value: None is a tombstone.
            key: None lets the producer choose the partition.
            partition: None takes the key's, as Java's producer does.
            timestamp_ms: milliseconds since 1970 UTC; None is the present time.
            headers: names and values.
            on_delivery: called on whichever thread serves reports; must be quick and thread-safe.

        Raises:
            ProducerFull: serve ``poll``, wait, and produce this record again.
            SerializationError: the record is too large; its own ``on_error`` decides.
            TransactionAborted, Fenced, OutcomeUnknown: the transaction cannot commit any more.
        """
        if self._fatal is not None:
            raise classify(self._fatal, f"produce to {topic}")
        enqueue(self._client, topic, value, key, partition, timestamp_ms, headers, on_delivery)

    def produce_many(
        self,
        topic: str,
        partition: int | None,
        keys: Sequence[bytes | None],
        values: Sequence[bytes | None],
    ) -> int:
        """Add many records without timestamps and headers, in order; much cheaper per record.

        Returns:
            How many were added, from the start. Fewer than given means that the queue is full:
            serve ``poll``, wait, and call again with the rest.

        Raises:
            SerializationError: a record is too large; those before it are in the transaction.
            TransactionAborted, Fenced, OutcomeUnknown: the transaction cannot commit any more.
        """
        batch: list[dict[str, Any]] = [
            {"key": key, "value": value} for key, value in zip(keys, values, strict=True)
        ]
        target = -1 if partition is None else partition
        try:
            added = self._client.produce_batch(topic, batch, target)
        except KafkaException as error:
            raise self._classified(error, f"produce to {topic}") from error
        return added if added == len(batch) else self._first_refused(topic, batch, added)

    def _first_refused(self, topic: str, batch: list[dict[str, Any]], added: int) -> int:
        """Index of the first record that was not added; raises if waiting does not help it."""
        index = next(i for i, message in enumerate(batch) if "_error" in message)
        error: KafkaError = batch[index]["_error"]
        if error.code() != _QUEUE_FULL:
            raise classify(self._underlying(error), f"produce to {topic}")
        invariant(
            added == index,
            "INV-EPOCH-1: a full queue refuses a batch from one record on",
            added=added,
            first_refused=index,
        )
        return index

    def poll(self, timeout_s: float = 0.0) -> int:
        """Serve delivery reports, errors and statistics; often, it is cheap.

        A timeout blocks the event loop, and is for making room in a full queue. A fatal error that
        comes to light here is told by the next call that depends on it.
        """
        try:
            with unmasked():
                return self._client.poll(timeout_s)
        except KafkaException as error:
            # The binding raises a fatal error from whatever serves it, once.
            self._fatal = error.args[0]
            return 0

    # Transaction thread.

    def init(self, timeout_s: float) -> None:
        """Take the id over: fences its former owner and ends what that left open.

        Raises:
            Unreachable: no coordinator answered in time; call again or give up.
            Fenced, ConfigError: as the message says.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                with unmasked():
                    self._client.init_transactions(max(0.1, deadline - time.monotonic()))
            except KafkaException as error:
                refused = self._connection.refusal("init")
                if refused is not None:
                    raise refused from error
                if kind_of(error.args[0]) is not Unreachable:
                    raise self._classified(error, "init") from error
                if time.monotonic() >= deadline:
                    raise self._connection.silence("init", timeout_s) from error
            else:
                return

    def flush(self, timeout_s: float) -> None:
        """Wait until all records are delivered or have failed; the commit tells which.

        Raises:
            Unreachable: some are still queued; the transaction can be aborted or waited for.
            Fenced, OutcomeUnknown: the producer is spent.
        """
        try:
            with unmasked():
                left = self._client.flush(timeout_s)
        except KafkaException as error:
            self._fatal = error.args[0]
            raise self._classified(error, "flush") from error
        if left:
            raise Unreachable(
                f"{left} records were not acknowledged within {timeout_s} s; their transaction has"
                " not committed and its input is not lost. Check that the brokers answer"
            )

    def send_offsets(
        self, offsets: Sequence[tuple[Partition, int, str]], group_metadata: object
    ) -> None:
        """Put input offsets and their metadata (the marker) into the transaction.

        Blocks, possibly for ever: call it through ``CallThread.run``.

        Args:
            offsets: for *every* claimed partition the next offset to read, and its metadata.
            group_metadata: of the assignment the epoch began under, never fresher.

        Raises:
            TransactionAborted: the membership is stale; abort and replay.
            Fenced, OutcomeUnknown, Unreachable: as their reactions say.
        """
        invariant(
            offsets,
            "INV-EPOCH-2: a transaction without offsets would commit unfenced",
            transactional_id=self.transactional_id,
        )
        rows: list[TopicPartition] = []
        for partition, offset, metadata in offsets:
            invariant(
                offset >= 0,
                "INV-EPOCH-2: librdkafka drops negative offsets without a word",
                partition=partition,
                offset=offset,
            )
            invariant(
                len(metadata.encode()) <= limits.MARKER_BYTES_MAX,
                "INV-EPOCH-1: a marker fits its bound",
                partition=partition,
                size_bytes=len(metadata.encode()),
            )
            rows.append(TopicPartition(partition.topic, partition.number, offset, metadata))
        try:
            with unmasked():
                self._client.send_offsets_to_transaction(rows, group_metadata)
        except KafkaException as error:
            raise self._classified(error, "send offsets") from error

    def commit_transaction(self, timeout_s: float) -> EndResult:
        """Commit: the decision. Never raises for what Kafka answers; the result says all."""
        return self._end(self._client.commit_transaction, timeout_s, EndOutcome.COMMITTED)

    def abort_transaction(self, timeout_s: float) -> EndResult:
        """Abort: nothing of the transaction ever becomes visible.

        What is queued is sent first, as far as that goes quickly. An abort before the broker knows
        of the transaction is fatal (librdkafka #4849), and dropping queued records leaves a gap in
        the sequence numbers, which the client mends by a new producer epoch at the cost of the
        next transaction: of 150 aborts right after producing, two then hung for 10 s.
        """
        self._settle(min(limits.ABORT_FLUSH_S, timeout_s))
        return self._end(self._client.abort_transaction, timeout_s, EndOutcome.ABORTED)

    def destroy(self) -> None:
        """Give the producer up without ending its transaction; idempotent.

        Its records are dropped unsent, and its open transaction stays open until it is fenced or
        times out. Never ``close``: that would send an abort, which is what must not happen late.
        """
        if self._producer is None:
            return
        self._producer.purge()
        self.poll()
        producer, self._producer = self._producer, None
        # Dropping the last reference stops librdkafka's threads.
        del producer

    def _end(
        self, end: Callable[[float], None], timeout_s: float, success: EndOutcome
    ) -> EndResult:
        started = time.monotonic()
        failure: KafkaError | None = None
        try:
            with unmasked():
                end(timeout_s)
        except KafkaException as error:
            failure = error.args[0]
        elapsed_s = time.monotonic() - started
        # Serves the error callbacks of what happened meanwhile.
        self.poll()
        disturbed = elapsed_s > limits.END_S_SLOW or self._connection.count > self._errors_at_begin
        if failure is None:
            return EndResult(success, disturbed, elapsed_s)
        failure = self._underlying(failure)
        error = classify(failure, "commit" if success is EndOutcome.COMMITTED else "abort")
        if success is EndOutcome.COMMITTED and self._needs_abort(failure):
            return EndResult(EndOutcome.ABORTABLE, disturbed, elapsed_s, error)
        if kind_of(failure) is Fenced:
            return EndResult(EndOutcome.FENCED, True, elapsed_s, error)
        return EndResult(EndOutcome.UNKNOWN, True, elapsed_s, error)

    def _needs_abort(self, failure: KafkaError) -> bool:
        return failure.txn_requires_abort() and not failure.fatal() and self._fatal is None

    @property
    def _client(self) -> Producer:
        if self._producer is None:
            raise InvariantViolation(
                f"INV-EPOCH-1: a spent producer is not used again ({self.transactional_id})"
            )
        return self._producer

    def _settle(self, bound_s: float) -> None:
        """Send what is queued until nothing moves any more or the bound is over."""
        deadline = time.monotonic() + bound_s
        left = self.queued
        while left and time.monotonic() < deadline:
            before = left
            try:
                with unmasked():
                    left = self._client.flush(limits.ABORT_STEP_S)
            except KafkaException as error:
                self._fatal = error.args[0]
                return
            if left >= before:
                return

    def _underlying(self, error: KafkaError) -> KafkaError:
        """The fatal error behind the bare ``_FATAL`` that every later call answers."""
        if error.code() == KafkaError._FATAL and self._fatal is not None:  # noqa: SLF001
            return self._fatal
        return error

    def _classified(self, exception: KafkaException, doing: str) -> OnceflowError:
        return classify(self._underlying(exception.args[0]), doing)


def fence(config: ClientConfig, transactional_id: str, timeout_s: float) -> None:
    """End the rights of whoever used this id, and its open transaction. Blocks.

    After it returns, no earlier producer of the id can commit, and committed offsets tell the
    truth about it.

    Raises:
        Unreachable: no coordinator answered within the bound; the former owner may still write.
    """
    producer = TransactionalProducer(config, transactional_id)
    try:
        producer.init(timeout_s)
    finally:
        producer.destroy()


def _made(settings: dict[str, Any]) -> Producer:
    try:
        return Producer(settings)
    except KafkaException as error:
        raise classify(error.args[0], "producer") from error
