"""What a worker must do for its commit epochs: the output of ``commit_epoch.CommitEpochs``.

The engine performs the effects of one ``handle`` call in their order, each finished before the next
begins, and hands results back as events. Effects that take long (marked *reports*) run beside the
event loop; their event is their end, and the machine waits for it. Values only; must never import
anything that acts.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onceflow.ids import CommitEpoch, Offset, Partition, Stamp


@dataclass(frozen=True, slots=True)
class BeginTakeover:
    """Run a ``takeover.Takeover`` for these partitions, after a wait. Reports ``TakenOver``.

    At most one runs, each with an ``assignment`` of its own; its ``TakeoverFailed`` is reported as
    ``Failed``. The waiting is for a claim that was refused: news of the group is coming.
    """

    assignment: int
    partitions: frozenset[Partition]
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CancelTakeover:
    """Stop the running takeover; nothing of it may be reported later."""


@dataclass(frozen=True, slots=True)
class BeginTransaction:
    """Begin a transaction on the clean producer (a local call)."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class OpenGate:
    """Let readers yield records, after a wait; ``CloseGate`` ends that wait too.

    Actors and unread batches of the claimed partitions belong to ``stamp`` from here on: the gate
    is drained or everything was dropped, so nothing of an older stamp is alive.
    """

    stamp: Stamp
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class CloseGate:
    """Stop yielding between records, bring readers to one position, report ``Drained``.

    Followed by ``DropAttempt`` when the epoch is aborted instead; then nothing is reported.
    """


@dataclass(frozen=True, slots=True)
class Seal:
    """Freeze the overlay, produce changelog and per-commit outputs. Reports ``Sealed``."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class Prepare:
    """Prepare the epoch's branch in *every* participant, side by side, if only its marker row.

    Given only when no branch of an earlier epoch or attempt of ours is left. Reports ``Prepared``
    once all are durable, else ``PrepareFailed``. An epoch that is aborted meanwhile needs no
    report; its ``RollBackBranch`` comes when its transaction is surely over.
    """

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class AwaitBranches:
    """The epoch cannot be prepared before these branches of ours are gone: begin the bound.

    Reports ``BranchesTimedOut`` when ``AWAIT_BRANCHES_S_MAX`` passes, with an alarm; harmless when
    the epoch went on.
    """

    commit_epoch: CommitEpoch
    branches: frozenset[CommitEpoch]


@dataclass(frozen=True, slots=True)
class FinishBranch:
    """Kafka committed the epoch: commit its branch in every participant, retried for ever.

    Runs beside later epochs. Reports ``BranchFinished``, or ``BranchMissing`` when a participant
    neither lists the branch nor shows in its marker row that it was committed.
    """

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class RollBackBranch:
    """The epoch is surely not committed: roll its branch back in every participant, for ever.

    Its PREPARE may have failed, or its outcome may be unknown, so that the branch may be missing or
    still be on its way: afterwards list our own branches and roll back every one up to this number.
    That is safe, because nothing of ours is prepared or being finished meanwhile. Reports
    ``BranchRolledBack`` when none is listed.
    """

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class Flush:
    """Wait until the broker has every record of the transaction.

    Between ``SendOffsets`` and ``CommitTransaction``, with them one job of the transaction thread:
    the first that fails ends it with its event. Offsets go first because their two requests then
    run while the records are on their way; nothing of either is visible before the commit.
    """


@dataclass(frozen=True, slots=True)
class PositionToCommit:
    """Offset and metadata of one partition in a transaction."""

    offset: Offset
    metadata: str


@dataclass(frozen=True, slots=True)
class SendOffsets:
    """Put offsets and markers of *all* claimed partitions into the transaction.

    ``membership`` names the group metadata taken in that ``Assigned`` callback; never fresh ones:
    the broker would accept offsets of partitions that another worker owns by then.
    """

    membership: int
    offsets: Mapping[Partition, PositionToCommit]


@dataclass(frozen=True, slots=True)
class CommitTransaction:
    """The decision. Reports ``TransactionEnded``."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class AbortTransaction:
    """Abort the open transaction. Reports ``Aborted``."""

    commit_epoch: CommitEpoch


@dataclass(frozen=True, slots=True)
class Apply:
    """Kafka committed the epoch: write the overlay into the stores of ``partitions`` only.

    Futures of its sends resolve after it. Partitions lost in the meantime are not among them: their
    overlay is dropped, and who owns them restores. Reports ``Applied``.
    """

    commit_epoch: CommitEpoch
    partitions: frozenset[Partition]


class SendsFate(StrEnum):
    """What becomes of sends without an input record that the dropped attempt contained."""

    REPEAT = "repeat"
    """They were not committed: the next attempt contains them."""
    UNKNOWN = "unknown"
    """Nobody can tell any more (outcome unknown, every partition lost): their futures fail."""


@dataclass(frozen=True, slots=True)
class DropAttempt:
    """Throw the attempt away: overlay, decoded caches, buffers; restart the actors as ``stamp``.

    Work of any other stamp is refused from here on.
    """

    stamp: Stamp
    sends: SendsFate = SendsFate.REPEAT


@dataclass(frozen=True, slots=True)
class Rewind:
    """Position the consumer: the next records of these partitions come from these offsets."""

    offsets: Mapping[Partition, Offset]


@dataclass(frozen=True, slots=True)
class ForgetPartitions:
    """Partitions are not ours any more: close their stores, drop their buffers and overlay.

    The gate is closed and drained or dropped. The others are of ``stamp`` from here on.
    """

    partitions: frozenset[Partition]
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class FinishRevoke:
    """Let the revoke callback return: the group may give the partitions away."""


@dataclass(frozen=True, slots=True)
class ReplaceProducer:
    """Destroy the producer, make one with the same transactional id. Reports ``ProducerReady``.

    Its ``init_transactions`` is the fence: whatever the old one left in flight ends there.
    """


@dataclass(frozen=True, slots=True)
class ReadMarkers:
    """Read offsets and markers, stable, retried within a bound. Reports ``MarkersRead``."""

    partitions: frozenset[Partition]


@dataclass(frozen=True, slots=True)
class Stop:
    """Everything that could be committed is, or is left to the next owner: close and leave."""


@dataclass(frozen=True, slots=True)
class Fail:
    """Leave the process with this exit code; commit nothing any more."""

    message: str
    exit_code: int


EpochEffect = (
    BeginTakeover
    | CancelTakeover
    | BeginTransaction
    | OpenGate
    | CloseGate
    | Seal
    | Prepare
    | AwaitBranches
    | FinishBranch
    | RollBackBranch
    | Flush
    | SendOffsets
    | CommitTransaction
    | AbortTransaction
    | Apply
    | DropAttempt
    | Rewind
    | ForgetPartitions
    | FinishRevoke
    | ReplaceProducer
    | ReadMarkers
    | Stop
    | Fail
)
"""Everything that ``CommitEpochs.handle`` returns."""
