"""The views of a record that Faust's API hands to user code, over the columns of a run.

A run of records travels through the engine as one `Batch`; an ordinary agent sees it unrolled as
`RecordEvent` objects whose key, headers and message are made only when somebody reads them, so
that unread fields cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from weakref import ref

import faust.streams
from faust import Event
from faust.types import TP
from faust.types.tuples import ConsumerMessage

if TYPE_CHECKING:
    from contextvars import ContextVar

    from faust.types import AppT, Message

    from onceflow.engine.topic import Topic
    from onceflow.ids import Partition, Stamp
    from onceflow.kafka.records import Run

current_event_ref: ContextVar[ref[Event] | None] = faust.streams._current_event  # pyright: ignore  # noqa: PGH003, SLF001
"""Faust's own context variable: `faust.current_event()` reads it, so the engine sets it."""

FILTERED = object()
"""Stands for a value that a processor of its stream has taken out."""


class Batch:
    """One run of consecutive records of one partition, while the engine works on it.

    Attributes:
        run: the columns as fetched.
        partition: topic and number.
        number: the partition's number, at hand for table writes.
        stamp: assignment and attempt that it belongs to; any other is a ghost.
        readers_left: subscriptions that have not finished it; 0 frees its share of the
            back-pressure bound.
    """

    __slots__ = ("number", "partition", "readers_left", "run", "stamp")

    def __init__(self, run: Run, stamp: Stamp, readers: int) -> None:
        self.run = run
        self.partition: Partition = run.partition
        self.number: int = run.number
        self.stamp = stamp
        self.readers_left = readers

    @property
    def next_offset(self) -> int:
        """Return the offset after the last record."""
        return self.run.offsets[-1] + 1


class RecordEvent(Event):
    """A Faust event that is a window onto one record of a batch.

    ``live`` is true from the moment that the record is handed to the agent until the agent asks
    for the next one: only then may writes and sends be attributed to it.
    """

    __slots__ = ("_key", "_message", "batch", "channel", "index", "live", "number", "sequence")

    def __init__(self, app: AppT, channel: Topic, batch: Batch, index: int, value: Any) -> None:
        self.app = app
        self.channel = channel
        self.batch = batch
        self.number = batch.number
        self.index = index
        self.value = value
        self.live = True

    @property
    def key(self) -> Any:
        """Return the decoded key (decoded when first read)."""
        try:
            return self._key
        except AttributeError:
            self._key = self.channel.codecs.decode_key(self.batch.run.keys[self.index])
            return self._key

    @key.setter
    def key(self, key: Any) -> None:
        self._key = key

    @property
    def headers(self) -> dict[str, Any]:
        """Return the record's headers as a mapping."""
        headers = self.batch.run.headers
        return dict(headers[self.index] or ()) if headers is not None else {}

    @property
    def timestamp(self) -> float:
        """Return the record's timestamp in seconds."""
        return self.batch.run.timestamps[self.index] / 1000.0

    @property
    def offset(self) -> int:
        """Return the record's offset."""
        return self.batch.run.offsets[self.index]

    @property
    def message(self) -> Message:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return Faust's message object of this record (made when first read)."""
        try:
            return self._message
        except AttributeError:
            run = self.batch.run
            headers = run.headers[self.index] if run.headers is not None else None
            self._message = ConsumerMessage(
                run.topic,
                run.number,
                run.offsets[self.index],
                run.timestamps[self.index] / 1000.0,
                0,
                cast("Any", headers or []),
                run.keys[self.index],
                run.values[self.index],
                None,
                tp=TP(run.topic, run.number),
                generation_id=self.app.consumer_generation_id,
            )
            self._message.tracked = True
            return self._message

    @property
    def acked(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Return whether the record is finished."""
        return not self.live

    def idempotency_key(self) -> str:
        """Return a key that is the same at every replay of this record, for effects outside.

        The n-th call for a record yields ``topic-partition-offset-n``, so an HTTP service or
        mailer that remembers keys sees a repeated call as the same one (promise table, last row).
        """
        try:
            self.sequence += 1
        except AttributeError:
            self.sequence = 0
        partition = self.batch.partition
        return f"{partition.topic}-{partition.number}-{self.offset}-{self.sequence}"

    def ack(self) -> bool:
        """Finish a record of a ``noack()`` stream; on other streams it finishes by itself."""
        return self.channel.cursor.acknowledge(self)


class RecordRef(ref[Event]):
    """What the context knows of the record being processed.

    A context that a task inherited outlives the record. Then the reference is dead, but its class
    still tells that there was a record, so that the task's sends are not taken for a timer's.
    """

    __slots__ = ()


def current_record() -> RecordEvent | None:
    """Return the record that the running task is processing, or None outside of one."""
    reference = current_event_ref.get(None)
    event = reference() if reference is not None else None
    return event if type(event) is RecordEvent else None
