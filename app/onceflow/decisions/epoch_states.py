"""The states of a worker's commit epochs, their groups, and what each may ignore.

Only data: the steps that do something are ``commit_epoch.CommitEpochs.TRANSITIONS``. A pair of
state and event that stands in neither table is a bug and refused.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final, get_args

from onceflow.decisions import epoch_events as ev

if TYPE_CHECKING:
    from onceflow.decisions.epoch_events import EpochEvent


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
    DECIDING = auto()
    """Offsets, flush and commit are on the way."""
    APPLYING = auto()
    """Kafka has decided; the local stores are being written."""
    ABORTING = auto()
    """The attempt is dropped; its transaction is being aborted."""
    RESOLVING = auto()
    """The producer is being replaced, or markers are read after it."""
    STOPPED = auto()
    FAILED = auto()


BETWEEN: Final = (EpochState.UNASSIGNED, EpochState.TAKING_OVER)
"""No epoch, and none ending: what is asked can be obeyed at once."""
UNDECIDED: Final = (EpochState.DRAINING, EpochState.SEALING)
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
    ((*BETWEEN, EpochState.OPEN), ev.RevokeTimedOut),
    ((*BETWEEN, *UNDECIDED, *BUSY), ev.CommitDue),
    ((*BETWEEN, *UNDECIDED, *BUSY), ev.NoteAttempt),
    ((*BETWEEN, EpochState.OPEN, EpochState.SEALING, *BUSY), ev.DrainTimedOut),
    # Reports of an attempt that was aborted while they were on their way.
    (_AFTER_ABORT, ev.Drained),
    (_AFTER_ABORT, ev.Sealed),
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
