"""Performs the effects of the worker's own epochs that concern two-phase sinks.

All participants prepare side by side before the decision; finishing and rolling back run beside
later epochs and are repeated until they are done. Results go back as events. It decides nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from onceflow.decisions import epoch_events as ev
from onceflow.decisions.branch_steps import Contradiction, HeuristicFound
from onceflow.decisions.crash_points import CrashPoint
from onceflow.decisions.epoch_states import EpochState
from onceflow.errors import DataAtRisk, ParticipantUnavailable, RowsRefused, Superseded
from onceflow.ids import BranchId
from onceflow.limits import AWAIT_BRANCHES_S_MAX, PREPARE_S_MAX
from onceflow.observe.events import LogEvent
from onceflow.observe.logs import get_logger
from onceflow.observe.metrics import BranchEnd

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from onceflow.decisions import epoch_effects as fx
    from onceflow.engine.holding import Holding
    from onceflow.engine.participants import Seat
    from onceflow.engine.rows import BufferedRows
    from onceflow.engine.runtime import Runtime
    from onceflow.ids import CommitEpoch, Partition

log = get_logger(__name__)

_KINDS: tuple[tuple[type[BaseException], ev.PrepareFailure], ...] = (
    (Superseded, ev.PrepareFailure.SUPERSEDED),
    (RowsRefused, ev.PrepareFailure.ROWS),
    (ParticipantUnavailable, ev.PrepareFailure.UNAVAILABLE),
)
"""What a failed PREPARE means; where several failed, the first row that fits one of them."""


class TwoPhase:
    """The branches of this worker's own epochs.

    Fields:
        in_doubt: when each branch that is not finished was begun, on the monotonic clock.
    """

    def __init__(
        self,
        runtime: Runtime,
        post: Callable[[ev.EpochEvent], None],
        phases: MutableMapping[str, float],
        holding: Holding,
    ) -> None:
        """Make the room.

        Args:
            runtime: the engine of the app.
            post: takes what happened.
            phases: takes how long the epoch's phases took.
            holding: the partitions whose rows are not taken at the moment.
        """
        self.runtime = runtime
        self.in_doubt: dict[CommitEpoch, float] = {}
        self._post = post
        self._phases = phases
        self._holding = holding

    @property
    def rows(self) -> ev.SinkRows:
        """Whether the epoch that is being sealed has rows for participants."""
        return ev.SinkRows.SOME if self.runtime.participants.rows.exist() else ev.SinkRows.NONE

    def _branch(self, commit_epoch: CommitEpoch) -> BranchId:
        return BranchId(self.runtime.incarnation, commit_epoch)

    def _partitions(self) -> frozenset[Partition]:
        """Return the partitions of the epoch that is being decided."""
        pending = self.runtime.epochs.machine.on_the_way
        return frozenset(pending.positions) if pending is not None else frozenset()

    # -- before the decision --

    async def prepare(self, effect: fx.Prepare) -> None:
        """Prepare in every participant; reports ``Prepared`` or ``PrepareFailed``."""
        started_s = self.in_doubt[effect.commit_epoch] = time.monotonic()
        participants = self.runtime.participants
        rows = {seat.name: list(participants.rows.of(seat.name)) for seat in participants}
        self.runtime.crash(CrashPoint.BEFORE_PREPARE)
        branch, partitions = self._branch(effect.commit_epoch), self._partitions()
        self.runtime.telling.begun(branch, partitions)
        errors = await asyncio.gather(
            *(self._prepare(seat, branch, rows[seat.name]) for seat in participants),
            return_exceptions=True,
        )
        failed = {
            seat.name: error
            for seat, error in zip(participants, errors, strict=True)
            if error is not None
        }
        if not failed:
            self.runtime.crash(CrashPoint.AFTER_PREPARE)
            self._phases["prepare"] = time.monotonic() - started_s
            self._holding.prepared()
            self.runtime.telling.prepared(branch, partitions)
            self._post(ev.Prepared(effect.commit_epoch))
            return
        self._report_failed(effect.commit_epoch, failed, rows)

    async def _prepare(self, seat: Seat, branch: BranchId, rows: list[BufferedRows]) -> None:
        started_s = time.monotonic()
        committed = self.runtime.epochs.machine.branch.last_committed
        if committed:
            await self._check_shown(seat, BranchId(branch.incarnation, committed))

        def prepare() -> None:
            seat.participant.prepare(branch, [each.encoded for each in rows])
            self.runtime.crash(CrashPoint.DURING_PREPARE)

        await seat.call(prepare, bound_s=PREPARE_S_MAX)
        self.runtime.metrics.branch_prepared(seat.name, time.monotonic() - started_s)

    async def _check_shown(self, seat: Seat, last: BranchId) -> None:
        """Check that a participant shows our last committed epoch.

        One that was replaced by an older state of itself would take the next epoch as well, and the
        rows of those in between would be missing for ever without a sign. If it has the branch
        still, that is committed again.

        Raises:
            DataAtRisk: it does not show it; exit 4.
            ParticipantUnavailable: it does not answer.
        """
        sink = seat.participant
        if last.commit_epoch <= await self._shown(seat, last):
            return
        if last in await seat.call(sink.branches, bound_s=PREPARE_S_MAX):
            await self.runtime.participants.commit_branches([(seat.name, last)])
        shown = await self._shown(seat, last)
        if last.commit_epoch <= shown:
            return
        message = (
            f"the sink {seat.name} shows epoch {shown} of {last.incarnation} as its last one, but "
            f"epoch {last.commit_epoch} was committed in it. Rows of the epochs in between are "
            "missing there: it was restored, or a replica took over that lacked them. Nothing "
            "further is written. Stop all workers; the guide about what is in doubt goes on here."
        )
        self.runtime.metrics.heuristic_outcome()
        await self.runtime.telling.contradicted(
            HeuristicFound(message, seat.name, last, Contradiction.BEHIND)
        )
        raise DataAtRisk(message)

    @staticmethod
    async def _shown(seat: Seat, last: BranchId) -> int:
        row = await seat.call(seat.participant.marker_row, last.incarnation, bound_s=PREPARE_S_MAX)
        return 0 if row is None else row.commit_epoch

    def _report_failed(
        self,
        commit_epoch: CommitEpoch,
        failed: dict[str, BaseException],
        rows: dict[str, list[BufferedRows]],
    ) -> None:
        """Report the failure that matters most; what is none of a participant's is raised."""
        for error in failed.values():
            if not isinstance(error, tuple(kind for kind, _ in _KINDS)):
                raise error
        for kind, failure in _KINDS:
            for name, error in failed.items():
                if isinstance(error, kind):
                    log.warning(
                        LogEvent.PREPARE_FAILED,
                        participant=name,
                        commit_epoch=commit_epoch,
                        kind=failure.value,
                        error=str(error),
                        meaning="nothing of the epoch is committed; its records are processed "
                        "again",
                    )
                    if isinstance(error, RowsRefused):
                        self.runtime.failures.rows_refused(rows[name], error)
                    elif failure is ev.PrepareFailure.UNAVAILABLE:
                        self.runtime.metrics.participant_failed(name)
                        self._hold(commit_epoch, EpochState.PREPARING)
                    self._post(ev.PrepareFailed(commit_epoch, failure, str(error)))
                    return

    def _hold(self, commit_epoch: CommitEpoch, state: EpochState) -> None:
        """Hold back the partitions that an epoch has rows of, if it is about to be aborted."""
        machine = self.runtime.epochs.machine
        if machine.commit_epoch != commit_epoch or machine.state is not state:
            return  # It was aborted for another reason, and others are being read by now.
        rows = self.runtime.participants.rows
        names = self.runtime.participants.seats
        self._holding.hold(
            frozenset(each.batch.partition for name in names for each in rows.of(name))
        )

    async def await_branches(self, effect: fx.AwaitBranches) -> None:
        """Give earlier branches some time; reports ``BranchesTimedOut``."""
        await asyncio.sleep(AWAIT_BRANCHES_S_MAX)
        if effect.branches & self.in_doubt.keys():
            log.error(
                LogEvent.BRANCH_IN_DOUBT,
                commit_epoch=effect.commit_epoch,
                waiting_for=sorted(effect.branches),
                meaning="branches of earlier epochs cannot be finished, so that no further one "
                "can be prepared; records are replayed until their sinks answer",
            )
            self._hold(effect.commit_epoch, EpochState.AWAITING_BRANCH)
        self._post(ev.BranchesTimedOut(effect.commit_epoch))

    # -- after it --

    async def finish(self, effect: fx.FinishBranch) -> None:
        """Commit a branch everywhere; reports ``BranchFinished`` or ``BranchMissing``."""
        self.runtime.crash(CrashPoint.BEFORE_FINISH)
        branch, participants = self._branch(effect.commit_epoch), self.runtime.participants
        self.runtime.telling.decided([branch], [])
        missing = await participants.commit_branches([(seat.name, branch) for seat in participants])
        self.runtime.crash(CrashPoint.AFTER_FINISH)
        self._ended(effect.commit_epoch)
        if missing:
            names = ", ".join(sorted(name for name, _ in missing))
            message = (
                f"epoch {effect.commit_epoch} of {branch.incarnation} is neither prepared nor "
                f"committed in {names}"
            )
            self.runtime.metrics.heuristic_outcome()
            await self.runtime.telling.missing(missing, message)
            log.critical(
                LogEvent.HEURISTIC_OUTCOME,
                commit_epoch=effect.commit_epoch,
                participants=names,
                error=message,
            )
            self._post(ev.BranchMissing(effect.commit_epoch, message))
            return
        self.runtime.telling.ended([branch])
        self._post(ev.BranchFinished(effect.commit_epoch))

    async def roll_back(self, effect: fx.RollBackBranch) -> None:
        """Roll a branch back everywhere, and what is left below; reports ``BranchRolledBack``."""
        own, participants = self.runtime.incarnation, self.runtime.participants
        branch = self._branch(effect.commit_epoch)
        self.runtime.telling.decided([], [branch])
        await participants.roll_back_branches([(seat.name, branch) for seat in participants])
        ours = self.runtime.epochs.machine.branch
        while True:
            listed = await participants.branches(frozenset({own}))
            left = [each for each in listed if each[1].commit_epoch in ours.dropped]
            # A participant that was set back shows the last committed branch again; what holds its
            # rows must be committed before anything else can be prepared there.
            again = [each for each in listed if each[1].commit_epoch == ours.last_committed]
            await participants.commit_branches(again)
            if not left:
                break
            await participants.roll_back_branches(left)
            self.runtime.metrics.branches_resolved(BranchEnd.ROLLED_BACK, len(left))
            log.info(
                LogEvent.BRANCHES_RESOLVED,
                rolled_back=[f"{name} {branch.commit_epoch}" for name, branch in sorted(left)],
                meaning="a PREPARE of an aborted attempt had arrived late",
            )
        self._ended(effect.commit_epoch)
        self.runtime.telling.ended([branch])
        self._post(ev.BranchRolledBack(effect.commit_epoch))

    def _ended(self, commit_epoch: CommitEpoch) -> None:
        del self.in_doubt[commit_epoch]
        if not self.in_doubt:
            self._holding.answered()

    def measure(self) -> None:
        """Update the gauges; called about once a second."""
        if self.runtime.participants.seats:
            oldest_s = min(self.in_doubt.values(), default=time.monotonic())
            self.runtime.metrics.in_doubt(len(self.in_doubt), time.monotonic() - oldest_s)
