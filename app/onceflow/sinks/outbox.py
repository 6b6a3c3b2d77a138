"""The protocol of outbox sinks: rows that reach a system after Kafka has decided, and once.

For systems that cannot prepare. A yielded value is encoded into *messages* that join the epoch's
Kafka transaction, in the topic ``<app>-<name>-outbox``. They are applied later, in the order of
their partition, each run of them in one local transaction of the target together with its *progress
row*: a compare-and-set from the expected offset to the next one. Whoever applies, once or twice or
late, the offset lets each message through once.

Decided here: the shape of the protocol. When what is called is the engine's matter.
``onceflow.testing.outbox_contract`` checks an implementation line by line.

Must never import a driver of a database, and does no I/O.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from onceflow.errors import ConfigError, ParticipantUnavailable, invariant

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from onceflow.decisions.outbox import Progress
    from onceflow.sinks.gid import Scope
    from onceflow.sinks.participant import EncodedRows


class OnRefused(StrEnum):
    """What becomes of rows that the target refuses for their data: their record is long done."""

    DEAD_LETTER = "dead_letter"
    """They are kept in the target's table ``onceflow_refused``, and told to the dead letters."""
    STOP = "stop"
    """The worker stops at them (exit 1), and stops there again until somebody mends it."""


class ProgressMoved(ParticipantUnavailable):
    """The target's progress is not what was expected: another worker applies this partition.

    Nothing was applied. Reaction: read the progress again, and go on from there.
    """


@dataclass(frozen=True, slots=True)
class OutboxRun:
    """Consecutive messages of one partition, to be applied in one local transaction.

    Attributes:
        number: of the partition.
        topic_id: of the topic.
        expected: the offset in the progress row; None if there must be no row.
        next_offset: the offset that the progress row gets.
        offsets: of the messages.
        messages: as ``encode`` made them.
        refusal: why the target refuses the only message; it is then kept aside, not applied.
    """

    number: int
    topic_id: str
    expected: int | None
    next_offset: int
    offsets: Sequence[int]
    messages: Sequence[bytes]
    refusal: str | None = None

    def __post_init__(self) -> None:
        """Check what every run has.

        Raises:
            InvariantViolation: INV-OUTBOX-1.
        """
        invariant(
            self.next_offset > self.offsets[-1] >= self.offsets[0] >= (self.expected or 0)
            and len(self.offsets) == len(self.messages)
            and (self.refusal is None or len(self.messages) == 1),
            "INV-OUTBOX-1: a run of an outbox begins at the progress and moves it past its end",
            expected=self.expected,
            first=self.offsets[0],
            last=self.offsets[-1],
            next_offset=self.next_offset,
        )

    def part(self, places: range) -> Self:
        """Return some consecutive messages as a run of their own."""
        stop = places.stop
        is_last = stop == len(self.offsets)
        return type(self)(
            self.number,
            self.topic_id,
            self.offsets[places.start] if places.start else self.expected,
            self.next_offset if is_last else self.offsets[stop],
            self.offsets[places.start : stop],
            self.messages[places.start : stop],
        )

    def kept_aside(self, refusal: str) -> Self:
        """Return the run, of one message that the target refuses, as one that keeps it aside."""
        return type(self)(
            self.number,
            self.topic_id,
            self.expected,
            self.next_offset,
            self.offsets,
            self.messages,
            refusal,
        )


class RefusedMessage(NamedTuple):
    """A message that the target refused, as its table ``onceflow_refused`` has it."""

    topic_id: str
    number: int
    offset: int
    error: str
    message: bytes

    @property
    def place(self) -> tuple[str, int, int]:
        """What tells it from every other one of its sink."""
        return self.topic_id, self.number, self.offset


class OutboxSink(ABC):
    """A sink whose rows travel through Kafka. Write one by implementing every method.

    All calls block, and all but ``encode`` come from one thread. Each is bounded by
    ``PREPARE_S_MAX``; past it, or when the target does not answer, they raise
    ParticipantUnavailable, and the caller begins anew with ``progress``. A call after a lost
    connection connects again by itself.

    Attributes:
        name: 1 to 16 of ``[a-z0-9_]``, unique in the application; names the topic.
        where: the target, without secrets, for logs.
        on_error: what becomes of rows that the target refuses.
    """

    name: str
    where: str
    on_error: OnRefused

    @abstractmethod
    def encode(self, value: object) -> EncodedRows:
        """Turn what an agent yielded into messages: ``payload`` is a list of bytes.

        Called on the event loop while the record is processed, and does no I/O. Messages are at
        most some ``OUTBOX_MESSAGE_BYTES_MAX`` long, unless one row alone is longer.

        Raises:
            SerializationError: the value cannot become rows of this sink; the agent's ``on_error``
                decides about the record.
        """

    @abstractmethod
    def open(self, scope: Scope) -> str:
        """Connect and check everything that could fail later, before any record is taken.

        Idempotent. Makes the tables of progress and of refused messages.

        Returns:
            The target's identity: random, made with its tables, and kept with them.

        Raises:
            ConfigError: rights or the table do not fit; the worker ends with exit code 2.
            Unreachable: no answer; exit code 3.
        """

    @abstractmethod
    def progress(self) -> Mapping[int, Progress]:
        """The progress rows of our scope and this sink's name, by number of the partition.

        Raises:
            ParticipantUnavailable: try again.
        """

    @abstractmethod
    def write(self, runs: Sequence[OutboxRun]) -> None:
        """Begin a local transaction: progress rows, and what the messages say; not visible yet.

        What an earlier ``write`` left without a ``commit`` is rolled back. Rows take effect in
        their order; where rows have a key, the last one of a key wins. After an error nothing is
        left of it.

        Raises:
            RowsRefused: the data is to blame, or is no message at all; its ``culprit`` counts the
                messages of the run, if one run was given.
            LaterVersion: a message that only a later version can read; the worker leaves.
            ProgressMoved: a progress row is not as expected.
            ParticipantUnavailable: anything else.
        """

    @abstractmethod
    def commit(self) -> None:
        """Make what ``write`` wrote visible and durable.

        Raises:
            RowsRefused: as ``write``.
            ParticipantUnavailable: nothing is known; ``progress`` tells.
        """

    @abstractmethod
    def untold(self, numbers: AbstractSet[int]) -> list[RefusedMessage]:
        """Messages in ``onceflow_refused`` that were not told to the dead letters.

        Of the partitions with these numbers alone; in the order of partitions and offsets, the
        first ``OUTBOX_UNTOLD_MAX`` at most.

        Raises:
            ParticipantUnavailable: try again.
        """

    @abstractmethod
    def told(self, messages: Sequence[RefusedMessage]) -> None:
        """Note that these are in the dead letters.

        Raises:
            ParticipantUnavailable: they may be told a second time.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections; what was not committed is rolled back. Never raises."""


def on_refused(given: str) -> OnRefused:
    """Read a sink's ``on_error``.

    Raises:
        ConfigError: there is no such policy.
    """
    policies = [each.value for each in OnRefused]
    if given not in policies:
        raise ConfigError(
            f"on_error={given!r} of an outbox sink is unknown. Nothing was consumed. Use one of "
            f"{', '.join(policies)}."
        )
    return OnRefused(given)
