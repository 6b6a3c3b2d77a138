"""The states of a worker's commit epochs, their groups, and what each may ignore.

The steps that do something are ``commit_epoch.CommitEpochs.TRANSITIONS``. A pair of state and event
that stands in neither table is a bug and refused. Must never import anything that acts.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, get_args

from onceflow.decisions import epoch_events as ev
from onceflow.errors import invariant

if TYPE_CHECKING:
    from onceflow.decisions.epoch_events import EpochEvent
    from onceflow.ids import CommitEpoch, Stamp


class EpochState(Enum):
    """Where a worker stands between two commits."""

    UNASSIGNED = auto()
    """No partition is ours."""
    TAKING_OVER = auto()
    """A ``takeover.Takeover`` runs; claimed partitions wait with it."""
    CLAIMING = auto()
    """The claim's transaction is being decided."""
    OPEN = auto()
    """The gate is open, or will be after a wait."""
    DRAINING = auto()
    """The gate is closed; what was yielded is being finished."""
    SEALING = auto()
    """Drained; changelog and per-commit outputs are being produced."""
    AWAITING_BRANCH = auto()
    """Sealed, with rows for participants; a branch of an earlier epoch is in the way."""
    PREPARING = auto()
    """Participants are preparing the epoch's branch."""
    DECIDING = auto()
    """Offsets, flush and commit are on the way."""
    APPLYING = auto()
    """Kafka has decided; the local stores are being written."""
    ABORTING = auto()
    """The attempt is dropped; its transaction is being aborted."""
    RESOLVING = auto()
    """The producer is being replaced, or markers are read after it."""
    FINISHING = auto()
    """All is released and the process is to stop, but a branch is left in a participant."""
    STOPPED = auto()
    FAILED = auto()


BETWEEN: Final = (EpochState.UNASSIGNED, EpochState.TAKING_OVER, EpochState.FINISHING)
"""No epoch, and none ending: what is asked can be obeyed at once."""
SEALED: Final = (EpochState.AWAITING_BRANCH, EpochState.PREPARING)
"""Everything is in the transaction but the offsets; participants come first."""
UNDECIDED: Final = (EpochState.DRAINING, EpochState.SEALING, *SEALED)
"""An epoch is ending and can still be aborted."""
ON_THE_WAY: Final = (EpochState.CLAIMING, EpochState.DECIDING)
"""The transaction's end was sent and cannot be called back."""
BUSY: Final = (*ON_THE_WAY, EpochState.APPLYING, EpochState.ABORTING, EpochState.RESOLVING)
"""The epoch is over but for its aftermath: what is asked waits for that."""
OVER: Final = (EpochState.STOPPED, EpochState.FAILED)
LIVE: Final = (*BETWEEN, EpochState.OPEN, *UNDECIDED, *BUSY)
_AFTER_ABORT: Final = (*BETWEEN, EpochState.ABORTING, EpochState.RESOLVING)

_IGNORED_ROWS: Final = (
    # Timers and wishes that the present state has fulfilled already.
    ((EpochState.UNASSIGNED, EpochState.TAKING_OVER, EpochState.OPEN), ev.RevokeTimedOut),
    ((*BETWEEN, *UNDECIDED, *BUSY), ev.CommitDue),
    ((*BETWEEN, *UNDECIDED, *BUSY), ev.NoteAttempt),
    ((*BETWEEN, EpochState.OPEN, EpochState.SEALING, *SEALED, *BUSY), ev.DrainTimedOut),
    ((*BETWEEN, EpochState.PREPARING, *BUSY), ev.BranchesTimedOut),
    # Reports of an attempt that was aborted while they were on their way.
    (_AFTER_ABORT, ev.Drained),
    (_AFTER_ABORT, ev.Sealed),
    (_AFTER_ABORT, ev.Prepared),
    (_AFTER_ABORT, ev.PrepareFailed),
    ((EpochState.ABORTING, EpochState.RESOLVING), ev.SendFailed),
    # Everything is drained there: the end of the transaction tells the same.
    ((*BETWEEN, *BUSY), ev.RecordFailed),
    # An epoch that ended may report what it likes; only the group's callback must return.
    *((OVER, event) for event in get_args(ev.EpochEvent) if event is not ev.RevokeRequested),
)
IGNORED: Final[frozenset[tuple[EpochState, type[EpochEvent]]]] = frozenset(
    (state, event) for states, event in _IGNORED_ROWS for state in states
)
"""Steps that may come late or twice and mean nothing."""


def is_late(event: EpochEvent, stamp: Stamp, begun: CommitEpoch) -> bool:
    """Whether an event reports about an older epoch, attempt or assignment.

    Branches outlive their epoch, so that what is reported of them is never late.

    Args:
        event: what is reported.
        stamp: the present assignment and attempt.
        begun: number of the last begun transaction.

    Raises:
        InvariantViolation: INV-EPOCH-6, a report about an epoch that was never begun.
    """
    match event:
        case ev.RecordFailed():
            return event.stamp != stamp
        case ev.TakenOver():
            return event.assignment != stamp.assignment
        case (
            ev.Drained()
            | ev.DrainTimedOut()
            | ev.Sealed()
            | ev.Prepared()
            | ev.PrepareFailed()
            | ev.BranchesTimedOut()
            | ev.SendFailed()
            | ev.OffsetsRefused()
            | ev.TransactionEnded()
            | ev.Applied()
            | ev.Aborted()
        ):
            invariant(
                event.commit_epoch <= begun,
                "INV-EPOCH-6: nothing is reported of an epoch that was not begun",
                reported=event.commit_epoch,
                begun=begun,
            )
            return event.commit_epoch < begun
        case _:
            return False
