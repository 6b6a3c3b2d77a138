"""The branch of this incarnation in two-phase participants: from its PREPARE until it is gone.

Decides when a branch may be prepared, finished and rolled back, and which epoch the markers name as
the last with participants. At most one branch is under way, because the next epoch is prepared only
when nothing of an earlier one is left (INV-2PC-5); so this is one value with a phase, no list. An
epoch without rows never comes here and costs nothing. Must never import anything that acts.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from onceflow.decisions import epoch_effects as fx
from onceflow.decisions.marker import NO_COMMIT_EPOCH, Handover
from onceflow.errors import invariant

if TYPE_CHECKING:
    from onceflow.decisions.epoch_effects import EpochEffect
    from onceflow.ids import CommitEpoch


class BranchPhase(Enum):
    """What is becoming of the branch."""

    NONE = auto()
    """No branch of ours is left anywhere."""
    GIVEN = auto()
    """Its PREPARE was given; whether Kafka commits the epoch is open."""
    FINISHING = auto()
    """Kafka committed the epoch; participants are committing the branch."""
    DROPPED = auto()
    """The attempt was given up; its transaction may still be on its way to its end."""
    ROLLING_BACK = auto()
    """Surely not committed; participants are rolling the branch back."""


class OwnBranch:
    """The one branch that is under way, and the number of the last committed one."""

    def __init__(self, participants: tuple[str, ...] = ()) -> None:
        self._participants: Final = participants
        self.phase = BranchPhase.NONE
        """Advanced along NONE, GIVEN, FINISHING, NONE or NONE, GIVEN, DROPPED, ROLLING_BACK, NONE.
        Invariant: DROPPED only while the epoch's transaction is being ended."""
        self.number = NO_COMMIT_EPOCH
        """Epoch of the branch, kept after it is gone. Invariant: only grows."""
        self.last_committed = NO_COMMIT_EPOCH
        """k of the markers: our last committed epoch that had participants, finished or not."""

        self._dropped: set[CommitEpoch] = set()
        """Aborted since a branch was last finished. Participants that have finished one take none
        of an earlier epoch any more, so that this is forgotten then."""
        self.left_unreleased = False
        """A partition was handed over unreleased. For ever: its next owner raises our marker rows,
        so that we must not prepare, or not prepare again."""

    @property
    def is_refused(self) -> bool:
        """Whether participants with branches of ours are going to refuse us."""
        return self.left_unreleased and self.number > NO_COMMIT_EPOCH

    @property
    def is_left(self) -> bool:
        """Whether a branch is anywhere, so that the next epoch must not be prepared."""
        return self.phase is not BranchPhase.NONE

    @property
    def for_markers(self) -> tuple[CommitEpoch, tuple[str, ...]]:
        """The k of the transaction that is about to be decided, itself included, and who took part.

        These are all participants, if there is such an epoch.
        """
        last = self.number if self.phase is BranchPhase.GIVEN else self.last_committed
        return last, self._participants if last > NO_COMMIT_EPOCH else ()

    @property
    def dropped(self) -> frozenset[CommitEpoch]:
        """Numbers of aborted branches, which are rolled back wherever and whenever they are listed.

        No other branch of ours is: a committed one is listed again by a participant that was set
        back to before its end.
        """
        return frozenset(self._dropped)

    def prepare(self, commit_epoch: CommitEpoch) -> list[EpochEffect]:
        """Begin the branch of an epoch.

        Raises:
            InvariantViolation: INV-2PC-5, an earlier branch is left.
        """
        invariant(
            not self.is_left and commit_epoch > self.number,
            "INV-2PC-5: no epoch is prepared while a branch of an earlier one is left",
            phase=self.phase,
            left=self.number,
            next=commit_epoch,
        )
        self.phase, self.number = BranchPhase.GIVEN, commit_epoch
        return [fx.Prepare(commit_epoch)]

    def committed(self, commit_epoch: CommitEpoch) -> list[EpochEffect]:
        """Kafka committed this epoch.

        Raises:
            InvariantViolation: INV-2PC-1, the branch under way is of another epoch.
        """
        if self.phase is not BranchPhase.GIVEN:
            return []
        invariant(
            self.number == commit_epoch,
            "INV-2PC-1: only the branch of a committed epoch is finished",
            branch=self.number,
            committed=commit_epoch,
        )
        self.phase, self.last_committed = BranchPhase.FINISHING, commit_epoch
        return [fx.FinishBranch(commit_epoch)]

    def handed_over(self, released: Handover) -> None:
        """A partition of ours is gone."""
        if released is Handover.HELD:
            self.left_unreleased = True

    def drop(self) -> None:
        """The attempt is given up; nothing is rolled back before its transaction has ended."""
        if self.phase is BranchPhase.GIVEN:
            self.phase = BranchPhase.DROPPED
            self._dropped.add(self.number)

    def settle(self) -> list[EpochEffect]:
        """No transaction of ours is open or of unknown outcome any more.

        Raises:
            InvariantViolation: INV-2PC-2, the branch is of a committed epoch.
        """
        if self.phase is not BranchPhase.DROPPED:
            return []
        invariant(
            self.number > self.last_committed,
            "INV-2PC-2: no branch of a committed epoch is rolled back",
            branch=self.number,
            last_committed=self.last_committed,
        )
        self.phase = BranchPhase.ROLLING_BACK
        return [fx.RollBackBranch(self.number)]

    def gone(self, commit_epoch: CommitEpoch, was: BranchPhase) -> None:
        """Participants have done what was asked of them.

        Raises:
            InvariantViolation: INV-EPOCH-6, it was not asked.
        """
        invariant(
            self.phase is was and self.number == commit_epoch,
            "INV-EPOCH-6: a branch is reported gone once, as it was asked for",
            phase=self.phase,
            branch=self.number,
            reported=commit_epoch,
        )
        self.phase = BranchPhase.NONE
        if was is BranchPhase.FINISHING:
            self._dropped.clear()


def superseded(message: str) -> str:
    """Why a worker leaves whose branches participants take no more."""
    return (
        f"a sink takes no more of this worker, because another one took over partitions of it that "
        f"it had not released: {message}. Nothing is lost or doubled: what it had not committed is "
        f"processed again by their owners. It has to start again, as a new worker."
    )


UNKNOWN_TO_US = (
    "the outcome of an epoch with rows for sinks is unknown, and every partition that could tell "
    "is lost. Their next owner reads it and finishes or rolls back. Nothing is lost or doubled. "
    "This worker has to start again, as a new one."
)
"""Why a worker leaves instead of guessing."""

HANDED_OVER = (
    "partitions were lost, or handed over late, without being released, after this worker wrote "
    "into sinks: their next owner makes the sinks refuse it. Nothing is lost or doubled. It has to "
    "start again, as a new worker."
)
"""Why a worker leaves that could never prepare again."""
