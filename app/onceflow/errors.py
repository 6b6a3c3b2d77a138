"""Every public exception, classed by the reaction that is expected.

    OnceflowError
    ├── ConfigError            the user fixes it; exit 2
    │   └── TopologyError      topics, partition counts or co-partitioning do not fit; exit 2
    ├── Unreachable            Kafka (or the group) does not answer; exit 3, start again later
    │   └── ParticipantUnavailable  a two-phase sink does not answer; it is tried again
    ├── RecordError            one record is to blame; the agent's on_error decides
    │   ├── DeserializationError
    │   │   └── ColumnDecodeError  the same, found while a batch was read as columns
    │   ├── ProcessingError
    │   ├── RowsRefused        a two-phase sink refused rows because of their data
    │   └── SerializationError
    ├── OutsideRecord          a table write or a wait that needs a record, or must not have one
    ├── StaleAttempt           a ghost of an aborted attempt; its work is dropped, nothing to do
    ├── TransactionAborted     abort and replay; the engine does it
    ├── OutcomeUnknown         a commit's or abort's answer is unknown; fence, then read the marker
    ├── Superseded             a two-phase sink takes nothing more of this incarnation; start again
    ├── Fenced                 another incarnation owns our partitions; exit 4
    ├── LaterVersion           rows in Kafka are of a later version of ours; exit 1, run that one
    ├── StorageFailed          the local disk takes no writes; exit 1, free or mend it, start again
    ├── TaskCorrupted          wipe the local store of those tasks and restore
    └── DataAtRisk             offsets or topics are not what was committed; exit 4, see the message
    InvariantViolation         a bug of ours: the worker stops, because wrong output is worse

Messages say what happened, what it means for correctness, and what to do.
"""

from __future__ import annotations


class OnceflowError(Exception):
    """Root of all errors that reach a user. Not raised itself."""

    exit_code = 1


class ConfigError(OnceflowError):
    """A setting or argument is wrong. Reaction: correct it; nothing was consumed or written."""

    exit_code = 2


class TopologyError(ConfigError):
    """Topics, partition counts or subscriptions do not fit. Reaction: as the message says."""


class Unreachable(OnceflowError):
    """A server does not answer within the bound. Reaction: check it, then start again."""

    exit_code = 3


class ParticipantUnavailable(Unreachable):
    """A two-phase sink gave no answer, or an unknown one. Reaction: try again, with back-off.

    A branch that was being prepared may exist; it is looked for and rolled back first.
    """


class RecordError(OnceflowError):
    """One record is to blame. Reaction: the agent's ``on_error`` policy."""


class DeserializationError(RecordError):
    """A key or value could not be decoded."""


class ColumnDecodeError(DeserializationError):
    """One record of a batch could not be read as columns; nothing of the batch took effect.

    Attributes:
        index: which record of the batch, from 0.
        offset: the record's own Kafka offset.
    """

    def __init__(self, message: str, *, index: int, offset: int) -> None:
        super().__init__(message)
        self.index = index
        self.offset = offset


class ProcessingError(RecordError):
    """An agent raised, or took longer than the record bound."""


class RowsRefused(RecordError):
    """A two-phase sink refused rows because of their data (constraint, type, overflow).

    Nothing of the epoch was prepared there.

    Attributes:
        culprit: which of the encoded rows handed to ``prepare`` is to blame, from 0; None if
            the system did not tell.
    """

    def __init__(self, message: str, *, culprit: int | None) -> None:
        super().__init__(message)
        self.culprit = culprit


class SerializationError(RecordError):
    """A key or value to be sent or stored could not be encoded, or is too large."""


class OutsideRecord(OnceflowError):
    """An operation that needs an input record was called without one, or the reverse."""


class StaleAttempt(OnceflowError):
    """Work of an aborted attempt or of a lost partition. Reaction: none, it is dropped."""


class TransactionAborted(OnceflowError):
    """The Kafka transaction must be aborted and its input replayed. Reaction: the engine's."""


class OutcomeUnknown(OnceflowError):
    """A commit or abort has no certain outcome. Reaction: fence, read the marker, go by it.

    Where that cannot be done in this process, it ends as for a broker that does not answer, and
    the next incarnation does it.
    """

    exit_code = 3


class Superseded(OnceflowError):
    """A two-phase sink takes no branch of this incarnation any more: others took it over.

    Reaction: the worker leaves (exit 1) and is started again, as a new incarnation.
    """


class Fenced(OnceflowError):
    """Another incarnation owns what we write. Reaction: exit 4; do not restart blindly."""

    exit_code = 4


class LaterVersion(OnceflowError):
    """What was to be read was written by a later version of ours. Reaction: run that one.

    The worker leaves (exit 1) and leaves it untouched, for a worker of that version to read.
    """


class StorageFailed(OnceflowError):
    """The disk of the local stores is full or broken. Reaction: the worker stops (exit 1).

    Nothing is lost: a store holds what its last successful apply wrote, and the rest is replayed
    from the changelog when the worker starts again with a working disk.
    """


class TaskCorrupted(OnceflowError):
    """A local store cannot be trusted. Reaction: wipe it and restore from the changelog."""


class DataAtRisk(OnceflowError):
    """Kafka's offsets or topics are not what was committed. Reaction: exit 4, as it says."""

    exit_code = 4


class InvariantViolation(Exception):
    """A stated invariant does not hold: a bug. Reaction: the worker stops at once."""

    exit_code = 4


def invariant(condition: object, message: str, **numbers: object) -> None:
    """Stop the worker unless ``condition`` holds.

    Args:
        condition: what must be true.
        message: begins with the invariant's id, such as ``INV-EPOCH-2: ...``.
        numbers: the values that decide it, shown in the error.

    Raises:
        InvariantViolation: a bug of onceflow; the worker must stop, because output that breaks an
            invariant is worse than none.
    """
    if not condition:
        details = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
        raise InvariantViolation(f"{message} ({details})" if details else message)
