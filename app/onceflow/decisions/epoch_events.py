"""What can happen to a worker's commit epochs: the input of ``commit_epoch.CommitEpochs``.

Results of effects carry the commit epoch they belong to, news of records the stamp of their
attempt; a late one of an older epoch or attempt is dropped by the machine, so that the engine need
not know whether it still matters. Values only; must never import anything that acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.decisions.marker import CommittedOffset
    from onceflow.ids import CommitEpoch, Offset, Partition, Stamp


class CommitReason(StrEnum):
    """Why an epoch ends."""

    INTERVAL = "interval"
    RECORDS = "records"
    BYTES = "bytes"
    ISOLATION = "isolation"
    """A suspect record comes next, or was just processed alone."""


class SendFailure(StrEnum):
    """What a failed produce, flush or send of offsets means for the transaction."""

    ABORTABLE = "abortable"
    """The transaction must be aborted; the producer can go on."""
    FATAL = "fatal"
    """The producer is of no use any more: fenced, or a fatal error of the client."""


class SinkRows(StrEnum):
    """Whether an epoch has rows for two-phase participants."""

    NONE = "none"
    SOME = "some"


class PrepareFailure(StrEnum):
    """Why an epoch could not be prepared; in each case its branch may exist somewhere."""

    UNAVAILABLE = "unavailable"
    """A participant does not answer, has no room, or its answer is unknown: abort, try again."""
    ROWS = "rows"
    """Rows were refused; ``failures.FailurePolicy`` was told which record is to blame."""
    SUPERSEDED = "superseded"
    """The marker row was raised: another worker took over from this incarnation, which can never
    prepare again."""


class Outcome(StrEnum):
    """What is known of a transaction after ``CommitTransaction``."""

    COMMITTED = "committed"
    NOT_COMMITTED = "not_committed"
    """Certain: the client says that the transaction must be aborted."""
    UNKNOWN = "unknown"
    """Timed out, fenced, fatal: only the marker can tell, after a fence."""


# What the consumer group says.


@dataclass(frozen=True, slots=True)
class Assigned:
    """The group gave us more partitions; may be empty.

    ``membership`` numbers the group metadata that the engine took in this very callback; it grows
    with each. Offsets are sent with the metadata of the number that ``SendOffsets`` names.
    """

    partitions: frozenset[Partition]
    membership: int


@dataclass(frozen=True, slots=True)
class RevokeRequested:
    """The group wants partitions back and waits for ``FinishRevoke`` in the callback.

    One at a time: the callback blocks, so the next comes after ``FinishRevoke``.
    """

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class RevokeTimedOut:
    """The bound of a revoke or stop passed. Harmless when both are over."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Partitions are gone without a question: another worker may own them already."""

    partitions: frozenset[Partition]


# What the process says.


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Drain, commit, release everything, stop. ``RevokeTimedOut`` bounds it."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An effect cannot be performed within its bound, or must not: leave the process.

    ``exit_code``: 3 if Kafka does not answer, 4 if data is at risk (``takeover.TakeoverFailed``), 1
    for anything else, such as a full disk.
    """

    message: str
    exit_code: int


# Taking over.


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition begins: decided once, with its claim."""

    offset: Offset
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class TakenOver:
    """``takeover.Takeover`` finished: fenced, offsets decided, stores restored.

    ``assignment`` is that of ``BeginTakeover``; of an older one it is dropped.
    """

    assignment: int
    starts: Mapping[Partition, Start]


# The open epoch.


@dataclass(frozen=True, slots=True)
class CommitDue:
    """The epoch is long, large or old enough. Harmless when it is ending already."""

    reason: CommitReason


@dataclass(frozen=True, slots=True)
class NoteAttempt:
    """A single-record attempt at the first uncommitted record of ``partition`` is to begin.

    Ends the epoch like ``CommitDue``; its marker counts the attempt. Only then may the record be
    yielded.
    """

    partition: Partition


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything yielded is done and all readers of a partition stand at the same record.

    Args:
        commit_epoch: the epoch that was drained.
        offsets: the next record to read, for every claimed partition.
        has_effects: sends, table writes or outbox entries exist even if no offset moved.
    """

    commit_epoch: CommitEpoch
    offsets: Mapping[Partition, Offset]
    has_effects: bool


@dataclass(frozen=True, slots=True)
class DrainTimedOut:
    """The gate is closed for too long and no record is to blame: abort and replay."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class RecordFailed:
    """A record failed or took too long; ``failures.FailurePolicy`` has said what follows.

    The attempt is aborted in any case: effects of the failed record must not be committed.

    Args:
        stamp: the attempt it was processed in; of an older one it is dropped.
        reopen_after_s: how long to wait before the replay.
        stop_message: None to replay; else the worker leaves with it (``on_error="stop"``).
    """

    stamp: Stamp
    reopen_after_s: float = 0.0
    stop_message: str | None = None


# The end of an epoch.


@dataclass(frozen=True, slots=True)
class Sealed:
    """Overlay frozen, changelog and per-commit outputs handed to the producer."""

    commit_epoch: CommitEpoch
    rows: SinkRows = SinkRows.NONE


@dataclass(frozen=True, slots=True)
class Prepared:
    """Every participant holds the epoch's branch, durably."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class PrepareFailed:
    """A participant did not prepare; others may have.

    Args:
        commit_epoch: the epoch that was to be prepared.
        kind: what follows.
        message: what the participant said, for the error that the worker leaves with.
    """

    commit_epoch: CommitEpoch
    kind: PrepareFailure
    message: str = ""


@dataclass(frozen=True, slots=True)
class BranchesTimedOut:
    """Earlier branches were not gone within the bound of ``AwaitBranches``."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class BranchFinished:
    """Every participant shows the rows of a committed epoch."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class BranchRolledBack:
    """No participant lists a branch of ours up to this number any more."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class BranchMissing:
    """A participant lost the branch of a committed epoch, or somebody rolled it back.

    Args:
        commit_epoch: the epoch that Kafka committed.
        message: which participant, what it means, what to do; the worker leaves with it.
    """

    commit_epoch: CommitEpoch
    message: str


@dataclass(frozen=True, slots=True)
class SendFailed:
    """A produce, flush or send of offsets failed; the commit was not attempted."""

    commit_epoch: CommitEpoch
    kind: SendFailure


@dataclass(frozen=True, slots=True)
class OffsetsRefused:
    """The group refused the offsets: our membership is stale; news of it is on the way."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class TransactionEnded:
    """``CommitTransaction`` came back.

    ``spent``: it took over a second, or the client retried or saw transport errors; the producer
    must be replaced even though the call came back. Ignored for an unknown outcome.
    """

    commit_epoch: CommitEpoch
    outcome: Outcome
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """The local stores have the epoch."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class Aborted:
    """``AbortTransaction`` came back. ``spent`` also if it failed or its outcome is unknown."""

    commit_epoch: CommitEpoch
    spent: bool = False


@dataclass(frozen=True, slots=True)
class ProducerReady:
    """The producer was replaced under the same transactional id, which fenced the old one."""


@dataclass(frozen=True, slots=True)
class MarkersRead:
    """Stable offsets and markers of the partitions that ``ReadMarkers`` named."""

    markers: Mapping[Partition, CommittedOffset]


EpochEvent = (
    Assigned
    | RevokeRequested
    | RevokeTimedOut
    | Lost
    | StopRequested
    | Failed
    | TakenOver
    | CommitDue
    | NoteAttempt
    | Drained
    | DrainTimedOut
    | RecordFailed
    | Sealed
    | Prepared
    | PrepareFailed
    | BranchesTimedOut
    | BranchFinished
    | BranchRolledBack
    | BranchMissing
    | SendFailed
    | OffsetsRefused
    | TransactionEnded
    | Applied
    | Aborted
    | ProducerReady
    | MarkersRead
)
"""Everything that ``CommitEpochs.handle`` takes."""
