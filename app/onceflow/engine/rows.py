"""Rows of the open epoch for two-phase sinks, each with the records that they were made of.

An agent's yield is encoded at once, so that an error has a record to blame, and waits here until
the epoch is prepared. Rows live and die with their attempt. Runs on the event loop only; it must
not know Kafka or what a participant does with rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from onceflow.errors import ConfigError, OutsideRecord, SerializationError, StaleAttempt
from onceflow.limits import PARTICIPANT_ROWS_BYTES_MAX

if TYPE_CHECKING:
    from onceflow.engine.failures import Blamed
    from onceflow.engine.gate import Gate
    from onceflow.engine.records import Batch, RecordEvent
    from onceflow.engine.stream import Stream
    from onceflow.sinks.participant import EncodedRows, Participant


class BufferedRows(NamedTuple):
    """The rows of one yield.

    Attributes:
        encoded: what the participant made of the value.
        agent: who yielded it.
        batch: the run that the record stands in.
        blamed: the records that were handed out when it was yielded.
    """

    encoded: EncodedRows
    agent: str
    batch: Batch
    blamed: Blamed


class EpochRows:
    """The rows of the open epoch by participant.

    Fields:
        opened: the participants of the worker, by name.
        size_bytes: of all rows together; an epoch ends when it holds many.
    """

    def __init__(self, gate: Gate) -> None:
        self.opened: dict[str, Participant] = {}
        self.size_bytes = 0
        self._gate = gate
        self._rows: dict[str, list[BufferedRows]] = {}
        self._sizes_bytes: dict[str, int] = {}

    def add(self, participant: Participant, value: object, stream: Stream) -> None:
        """Add what an agent yielded.

        Raises:
            SerializationError: it cannot become rows, or there are too many of them.
            OutsideRecord: the record it was made of is finished already.
            StaleAttempt: the attempt it belongs to was aborted; it is dropped.
            ConfigError: the participant was added to a worker that runs already.
        """
        if self.opened.get(participant.name) is not participant:
            raise ConfigError(
                f"The sink {participant.name} was added while the worker runs, and what is to "
                "commit with it must be opened before any record is taken. Nothing of this epoch "
                "is committed. Give it to the agent as sink=[...], and start again."
            )
        batch, blamed = record_of(stream, participant.name, self._gate)
        encoded = participant.encode(value)
        size_bytes = self._sizes_bytes.get(participant.name, 0) + encoded.size_bytes
        if size_bytes > PARTICIPANT_ROWS_BYTES_MAX:
            raise SerializationError(
                f"The rows for {participant.name} of one epoch take more than "
                f"{PARTICIPANT_ROWS_BYTES_MAX >> 20} MiB. They were dropped with the epoch, and "
                "its records are tried again in smaller ones. Yield less per record, or lower "
                "commit_records."
            )
        self._sizes_bytes[participant.name] = size_bytes
        self.size_bytes += encoded.size_bytes
        rows = self._rows.setdefault(participant.name, [])
        rows.append(BufferedRows(encoded, stream.reader, batch, blamed))

    def of(self, name: str) -> list[BufferedRows]:
        """Return the rows for a participant, in the order in which they were yielded."""
        return self._rows.get(name, [])

    def exist(self) -> bool:
        """Return whether the epoch has rows for any participant."""
        return bool(self._rows)

    def drop(self) -> None:
        """Forget all rows: their epoch is over, or its attempt was aborted."""
        if self._rows:
            self._rows.clear()
            self._sizes_bytes.clear()
            self.size_bytes = 0


def record_of(stream: Stream, sink: str, gate: Gate) -> tuple[Batch, Blamed]:
    """Return the run and the records that an agent's yield for a sink is made of.

    Raises:
        OutsideRecord: they are finished already.
        StaleAttempt: the attempt they belong to was aborted.
    """
    event, blamed = cast("RecordEvent | None", stream.current_event), stream.blamed()
    if event is None or blamed is None:
        raise OutsideRecord(
            f"{stream.reader} yielded rows for {sink} without a record in progress, such as after "
            "event.ack(). Its epoch may be committed, so they were dropped. Yield them before the "
            "record is finished."
        )
    if event.batch.stamp is not gate.stamp:
        raise StaleAttempt(
            f"The attempt that the rows for {sink} belong to was aborted; the record is replayed. "
            "They are dropped; nothing to do."
        )
    return event.batch, blamed
